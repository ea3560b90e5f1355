// Tables that change in place, and how values are shown. All that comes from the bus is text, never markup.

export function element(name, { text, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// --- values ---

const counts = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => counts.format(value);

export const rate = (value) => (value == null ? "-" : value >= 10 || value === 0 ? counts.format(value) : value.toFixed(1));

export function seconds(value) {
  if (value == null) return "-";
  for (const [limit, factor, unit] of [[1e-3, 1e6, "us"], [1, 1e3, "ms"], [120, 1, "s"], [7200, 1 / 60, "min"]]) {
    if (value < limit) return `${Number((value * factor).toPrecision(3))} ${unit}`;
  }
  return `${Number((value / 3600).toPrecision(3))} h`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

// A text id stands in quotes, an integer does not: they are two ids.
export const eventId = (row) => (row.id === null ? "(unreadable)" : row.int ? row.id : JSON.stringify(row.id));

export function subscriberName(key) {
  const name = key.host === null ? key.name : `${key.name}@${key.host}`;
  return key.config === null ? name : `${name} ${JSON.stringify(key.config)}`;
}

export function time(value_s) {
  const date = new Date(value_s * 1e3);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

// Named numbers in a list of definitions, which change in place.
export function showNumbers(place, numbers) {
  for (const [name, value] of Object.entries(numbers)) {
    const id = `${place.id}-${name}`;
    let known = document.getElementById(id);
    if (known === null) {
      known = element("dd", { id });
      place.append(element("div", {}, element("dt", { text: name }), known));
    }
    if (known.textContent !== value) known.textContent = value;
  }
}

// --- tables ---

// A column: { head, text(row), number, short, wide, bad(row), click(row), node(row) }. A row keeps its elements as long as its
// key is there, so that focus and selection stay where they are.
export class Table {
  constructor(place, name, columns, keyOf, empty) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.rows = new Map();
    this.body = element("tbody", { role: "rowgroup" });
    const heads = columns.map((column) =>
      element("th", { scope: "col", role: "columnheader", text: column.head, className: column.number ? "number" : "" }),
    );
    this.heads = heads;
    this.table = element(
      "table", { role: "table" },
      element("caption", { text: name }),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
      this.body,
    );
    this.empty = element("p", { className: "empty", text: empty });
    place.replaceChildren(this.table, this.empty);
    this.show([]);
  }

  show(rows) {
    const before = this.rows;
    this.rows = new Map();
    for (const row of rows) {
      const key = this.keyOf(row);
      if (!this.rows.has(key)) this.rows.set(key, this.filled(before.get(key) ?? this.made(), row));
    }
    for (const [key, line] of before) if (!this.rows.has(key)) line.element.remove();
    let at = this.body.firstElementChild;
    for (const line of this.rows.values()) {
      if (line.element === at) at = at.nextElementSibling;
      else this.body.insertBefore(line.element, at);
    }
    this.table.hidden = rows.length === 0;
    this.empty.hidden = rows.length !== 0;
  }

  made() {
    const line = { element: element("tr", { role: "row" }), cells: [], row: null };
    for (const column of this.columns) {
      const cell = element("td", { role: "cell" });
      cell.dataset.head = column.head;
      const target = column.click ? element("button", { type: "button", className: "link" }) : cell;
      if (column.click) {
        target.addEventListener("click", () => column.click(line.row));
        cell.append(target);
      }
      line.cells.push({ cell, target });
      line.element.append(cell);
    }
    return line;
  }

  filled(line, row) {
    line.row = row;
    this.columns.forEach((column, at) => {
      const { cell, target } = line.cells[at];
      if (column.node) {
        cell.replaceChildren(column.node(row));
        return;
      }
      const text = column.text(row);
      if (target.textContent !== text) target.textContent = text;
      if (column.click) target.hidden = text === "";
      const names = [column.number && "number", column.wide && "wide", column.short && "short", column.bad?.(row) && "bad", text === "" && "nothing"];
      cell.className = names.filter(Boolean).join(" ");
    });
    return line;
  }
}

// --- sparklines ---

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 60;

export class Sparklines {
  constructor() {
    this.values = new Map();
  }

  add(rows) {
    const kept = new Map();
    for (const row of rows) {
      const values = this.values.get(row.name) ?? [];
      if (row.rate != null) values.push(row.rate);
      kept.set(row.name, values.slice(-POINTS));
    }
    this.values = kept;
  }

  draw(name) {
    const values = this.values.get(name) ?? [];
    const most = Math.max(1e-9, ...values);
    const svg = document.createElementNS(SVG, "svg");
    const line = document.createElementNS(SVG, "polyline");
    const start = POINTS - values.length;
    line.setAttribute("points", values.map((value, at) => `${start + at},${19 - (18 * value) / most}`).join(" "));
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("aria-hidden", "true");
    svg.append(line);
    return svg;
  }
}
