// The journal's panel: how it is, what is stored, what is set aside, and replays. It asks while it is shown, and is told
// of the bus's subscribers, of which one is the journal.

import { Table, bytes, count, eventId, seconds, showNumbers, time } from "./tables.js";
import { get, openStored } from "./details.js";

const LOOK_MS = 2000;
const PAGE = 25;
const at = (id) => document.getElementById(id);

let timer = null;
let isAllowed = false; // The page is neither paused nor hidden.
let subscribers = () => [];
const isShown = () => !at("journal-panel").hidden;

const transactionId = (row) => (row.transaction === null ? "" : row.transaction_int ? row.transaction : JSON.stringify(row.transaction));

const stored = new Table(
  at("stored"), "Stored events",
  [
    { head: "position", text: (row) => row.position, number: true },
    { head: "stored", text: (row) => time(row.recorded_s), short: true },
    { head: "topic", text: (row) => row.topic, click: (row) => filter("match", row.topic) },
    { head: "event", text: eventId, click: openStored },
    { head: "transaction", text: transactionId, click: (row) => row.transaction !== null && filterTransaction(row) },
    { head: "source", text: (row) => row.source ?? "" },
    { head: "bytes", text: (row) => bytes(row.bytes), number: true },
  ],
  (row) => row.position, "No such event is stored.",
);

const rejected = new Table(
  at("rejected"), "Quarantined events",
  [
    { head: "stored", text: (row) => time(row.recorded_s), short: true },
    { head: "topic", text: (row) => row.topic },
    { head: "event", text: eventId },
    { head: "reason", text: (row) => row.reason, wide: true },
    { head: "bytes", text: (row) => bytes(row.bytes), number: true },
  ],
  (row) => row.position, "None.",
);

const checkpoints = new Table(
  at("checkpoints"), "Replays",
  [
    { head: "name", text: (row) => row.name },
    { head: "to bus", text: (row) => row.target },
    { head: "next position", text: (row) => row.next_position, number: true },
    { head: "until", text: (row) => row.until_position ?? "", number: true },
    { head: "updated", text: (row) => time(row.updated_s), short: true },
    { head: "state", text: (row) => (row.has_ended ? "ended" : "open"), short: true },
  ],
  (row) => row.name, "No replay has a name.",
);

// --- how it is ---

function say(text, isBad) {
  const place = at("journal-state");
  if (place.textContent !== text) place.textContent = text;
  place.className = isBad ? "bad" : "";
}

function stateOf({ writer, store, error }) {
  if (error !== null) return [error, true];
  if (writer === null) return ["It has never run on this machine, or notes no figures.", false];
  if (!writer.is_running) return ["Its process does not run: events that are published now pass it by in the end.", true];
  if (writer.error !== null) return [`The store has taken nothing for ${seconds(writer.failing_s)}: ${writer.error}`, true];
  return [`process ${writer.pid} writes ${store.url}`, false];
}

function show(journal) {
  const { writer, store } = journal;
  say(...stateOf(journal));
  const mine = subscribers().find((row) => row.name === writer?.subscriber);
  showNumbers(at("journal-numbers"), {
    events: store === null ? "-" : `${store.is_exact ? "" : "up to "}${count(store.events)}`,
    size: store === null ? "-" : bytes(store.bytes),
    oldest: store?.oldest_s == null ? "-" : time(store.oldest_s),
    newest: store?.newest_s == null ? "-" : time(store.newest_s),
    lag: seconds(writer?.lag_s),
    "waits in the bus": mine === undefined ? "-" : count(mine.queued + mine.in_flight),
    "in the spool": writer === null ? "-" : count(writer.spooled),
    batches: writer === null ? "-" : count(writer.commits),
    "a batch takes": seconds(writer?.commit_mean_s),
    duplicates: writer === null ? "-" : count(writer.duplicates),
    quarantined: writer === null ? "-" : count(writer.rejected),
  });
  if (journal.error === null) checkpoints.show(journal.checkpoints);
}

// --- lists: a first page that follows what comes, until somebody asks for more ---

class List {
  constructor(path, table, more, state) {
    Object.assign(this, { path, table, more, state, rows: [], next: null, isPaged: false, asked: 0 });
    more.addEventListener("click", () => this.load(true));
  }

  restart() {
    this.isPaged = false;
    return this.load(false);
  }

  async load(isMore) {
    if (!isMore && this.isPaged) return;
    this.isPaged = isMore;
    const mine = ++this.asked;
    try {
      const page = await get(...this.path(isMore ? this.next : null));
      if (mine !== this.asked) return; // There is a newer question.
      this.rows = isMore ? [...this.rows, ...(page.events ?? page.rejected)] : page.events ?? page.rejected;
      this.next = page.next;
      this.table.show(this.rows);
      this.more.hidden = page.next === null;
      const searched = page.searched_to_s == null ? "" : `, searched back to ${time(page.searched_to_s)}`;
      this.state(`${count(this.rows.length)} shown${searched}${isMore ? "; new ones are not added" : ""}`);
    } catch (error) {
      if (mine === this.asked) this.state(error.message);
    }
  }
}

const seconds1970 = (text) => new Date(text).getTime() / 1e3;

function wanted(next) {
  const transaction = at("stored-transaction").value.trim();
  return {
    limit: PAGE,
    ...(next !== null && { before: next }),
    ...(at("stored-match").value.trim() !== "" && { match: at("stored-match").value.trim() }),
    ...(transaction !== "" && { transaction, int: at("stored-int").checked ? "1" : "0" }),
    ...(at("stored-since").value !== "" && { since_s: seconds1970(at("stored-since").value) }),
    ...(at("stored-until").value !== "" && { until_s: seconds1970(at("stored-until").value) }),
  };
}

const events = new List(
  (next) => ["api/journal/events", wanted(next)], stored, at("stored-more"),
  (text) => { if (at("stored-state").textContent !== text) at("stored-state").textContent = text; },
);
const aside = new List(
  (next) => ["api/journal/rejected", { limit: PAGE, ...(next !== null && { after: next }) }], rejected, at("rejected-more"),
  () => {},
);

function filter(name, value) {
  at(`stored-${name}`).value = value;
  events.restart();
}

function filterTransaction(row) {
  at("stored-int").checked = row.transaction_int;
  filter("transaction", row.transaction);
}

// --- when it asks ---

async function look() {
  try {
    show((await get("api/journal")).journal);
  } catch (error) {
    say(error.message, true);
  }
  await Promise.all([events.load(false), aside.load(false)]);
}

// The next look begins when the last one has ended: a store that is slow is asked less often.
async function follow() {
  const mine = (timer = {});
  while (timer === mine && isShown()) {
    await look();
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

export function followJournal(listSubscribers) {
  subscribers = listSubscribers;
  isAllowed = true;
  if (isShown() && timer === null) follow();
}

export function closeJournal() {
  isAllowed = false;
  timer = null;
}

function select(name) {
  for (const one of ["bus", "journal"]) {
    const tab = at(`${one}-tab`);
    tab.setAttribute("aria-selected", String(one === name));
    tab.tabIndex = one === name ? 0 : -1;
    at(`${one}-panel`).hidden = one !== name;
  }
  history.replaceState(null, "", name === "journal" ? "#journal" : location.pathname + location.search);
  timer = null;
  if (isAllowed) followJournal(subscribers);
}

export function offerJournal(isThere) {
  at("tabs").hidden = !isThere;
  at("bus-panel").role = isThere ? "tabpanel" : null;
  at("bus-panel").ariaLabel = isThere ? "Bus" : null;
  if (!isThere && isShown()) select("bus");
  else if (isThere && location.hash === "#journal" && !isShown()) select("journal");
}

for (const name of ["bus", "journal"]) {
  at(`${name}-tab`).addEventListener("click", () => select(name));
  at(`${name}-tab`).addEventListener("keydown", (event) => {
    const other = name === "bus" ? "journal" : "bus";
    const goes = { ArrowLeft: other, ArrowRight: other, Home: "bus", End: "journal" }[event.key];
    if (goes === undefined) return;
    event.preventDefault();
    select(goes);
    at(`${goes}-tab`).focus();
  });
}
at("stored-form").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["match", "transaction", "int", "since", "until"]) {
  at(`stored-${name}`).addEventListener("input", () => events.restart());
}
