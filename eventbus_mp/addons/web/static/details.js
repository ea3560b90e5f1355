// The two dialogs: the events of a topic, a page at a time, and one event with its reasons, its story and its data.

import { Table, element, eventId, seconds, subscriberName, bytes, time } from "./tables.js";

const PAGE = 100;
const at = (id) => document.getElementById(id);
let actions = null;

export async function get(path, parameters = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(parameters)}`, { headers: { accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

export async function learnActions() {
  ({ actions } = await get("api/bus"));
}

const named = (row) => ({ topic: row.topic, id: row.id, int: row.int ? "1" : "0" });

// --- the events of a topic ---

let shown = { topic: "", rows: [], next: null };
const events = new Table(
  at("events"), "Unsettled events",
  [
    { head: "event", text: eventId, click: (row) => openEvent(row) },
    { head: "waits for", text: (row) => row.waiting.map(subscriberName).join(", "), wide: true },
    { head: "completed by", text: (row) => row.completers.map(subscriberName).join(", ") },
    { head: "skipped by", text: (row) => row.skippers.map(subscriberName).join(", ") },
  ],
  (row) => `${row.int} ${row.id}`, "No unsettled event.",
);

export function openTopic(name) {
  shown = { topic: name, rows: [], next: null };
  at("topic-dialog-head").textContent = `Topic ${name}`;
  events.show([]);
  if (!at("topic-dialog").open) at("topic-dialog").showModal();
  moreEvents();
}

async function moreEvents() {
  const mine = shown;
  at("events-more").hidden = true;
  at("events-state").textContent = "loading";
  try {
    const page = await get("api/events", { topic: mine.topic, limit: PAGE, ...(mine.next && { after: mine.next }) });
    if (mine !== shown) return;
    mine.rows.push(...page.events);
    mine.next = page.next;
    events.show(mine.rows);
    at("events-state").textContent = `${mine.rows.length} events${page.next ? ", and there are more" : ""}`;
    at("events-more").hidden = page.next === null;
  } catch (error) {
    if (mine === shown) at("events-state").textContent = error.message;
  }
}

// --- one event ---

// Why an event is here is asked only on request: the processes that have it then write down their stacks.
let event = null;

export function openEvent(row) {
  event = row;
  at("event-why").hidden = false;
  at("event-dialog-head").textContent = `Event ${eventId(row)} of ${row.topic}`;
  if (!at("event-dialog").open) at("event-dialog").showModal();
  lookAtEvent(false);
}

// One of the journal: the bus knows nothing of it any more.
export async function openStored(row) {
  event = row;
  at("event-why").hidden = true;
  at("event-dialog-head").textContent = `Stored event ${eventId(row)} of ${row.topic}`;
  if (!at("event-dialog").open) at("event-dialog").showModal();
  at("event").replaceChildren(element("p", { className: "empty", text: "looking" }));
  const place = element("p", { text: `Position ${row.position}, stored ${time(row.recorded_s)}.` });
  const parts = await part("Data", get("api/journal/event", { position: row.position }), data);
  if (row === event) at("event").replaceChildren(place, ...parts);
}

async function lookAtEvent(asksWhy) {
  const mine = event;
  const place = at("event");
  place.replaceChildren(element("p", { className: "empty", text: "looking" }));
  // First, for who reads the data has a view of it, and would be among the reasons.
  const why = asksWhy ? await part("Why it is here", get("api/explain", named(mine)), reasons) : [];
  const parts = await Promise.all([
    part("Story", get("api/story", named(mine)), story),
    part("Data", get("api/event", named(mine)), data),
  ]);
  if (mine === event) place.replaceChildren(...why, ...parts.flat());
}

async function part(head, asked, show) {
  const heading = element("h3", { text: head });
  try {
    return [heading, ...show(await asked)];
  } catch (error) {
    return [heading, element("p", { className: "empty", text: error.message })];
  }
}

function reasons(found) {
  if (found.is_settled && found.views.length === 0) return [element("p", { text: "Every subscriber has settled it." })];
  const made = found.age_s === null ? [] : [element("p", { text: `Unsettled for ${seconds(found.age_s)}.` })];
  const stacks = new Set();
  for (const delivery of found.deliveries) {
    made.push(element("p", { text: delivery.text }));
    if (delivery.stack !== null && !stacks.has(delivery.pid)) {
      stacks.add(delivery.pid);
      const summary = element("summary", { text: `What process ${delivery.pid} is doing` });
      made.push(element("details", { open: true }, summary, element("pre", { text: delivery.stack, tabIndex: 0 })));
    }
    if (actions !== null) made.push(buttons(delivery));
  }
  return [...made, ...found.views.map((view) => element("p", { text: view.text }))];
}

function story(found) {
  if (found.story.length === 0) return [element("p", { className: "empty", text: "The bus remembers none." })];
  const clock = (value) => {
    const date = new Date(value * 1e3);
    return `${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
  };
  return [
    element(
      "ol", { className: "story" },
      ...found.story.map((entry) => element("li", { text: `${clock(entry.at_s)} ${entry.text}` })),
    ),
  ];
}

function data({ event: found }) {
  const given = { ...found.fields, ...(Object.keys(found.headers).length && { headers: found.headers }) };
  const made = Object.keys(given).length ? [element("pre", { text: JSON.stringify(given, null, 2), tabIndex: 0 })] : [];
  if (found.error !== null) made.push(element("p", { text: found.error }));
  else made.push(element("pre", { text: JSON.stringify(found.data, null, 2), tabIndex: 0 }));
  made.push(element("p", { className: "note", text: `${bytes(found.bytes)}${found.is_cut ? ", shown in part" : ""}` }));
  return made;
}

// --- actions ---

function buttons(delivery) {
  const labels = { complete: "Complete", skip: "Skip", redeliver: "Send the dead letter again" };
  return element(
    "div", { className: "actions" },
    ...Object.entries(labels).map(([action, text]) => {
      const button = element("button", { type: "button", text });
      button.addEventListener("click", () => act(action, delivery, text));
      return button;
    }),
  );
}

async function act(action, delivery, label) {
  if (!confirm(`${label}: event ${eventId(delivery)} for ${subscriberName(delivery.subscriber)}?`)) return;
  const { name, config, host } = delivery.subscriber;
  const answer = await fetch("api/actions", {
    method: "POST",
    headers: { "content-type": "application/json", [actions.header]: actions.token },
    body: JSON.stringify({ action, topic: delivery.topic, id: delivery.id, int: delivery.int, subscriber: name, config, host }),
  });
  const body = await answer.json();
  if (answer.ok) lookAtEvent(true);
  else at("event").prepend(element("p", { className: "bad", text: body.error }));
}

at("events-more").addEventListener("click", moreEvents);
at("event-why").addEventListener("click", () => lookAtEvent(true));
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
}
