// The page: one stream of looks at the bus, and the tables that show the latest one. Without a viewer nobody looks:
// the stream is closed while the page is hidden or paused.

import { Sparklines, Table, bytes, count, eventId, rate, seconds, showNumbers, subscriberName } from "./tables.js";
import { get, learnActions, openEvent, openTopic } from "./details.js";
import { closeJournal, followJournal, offerJournal } from "./journal.js";

const RETRY_MS = 2000;
const ROWS = 100;
const at = (id) => document.getElementById(id);

let stream = null;
let isPaused = false;
let look = null;
let rows = ROWS;
const sparklines = new Sparklines();

// --- tables ---

const stuck = new Table(
  at("stuck"), "What has been unsettled for longest",
  [
    { head: "age", text: (row) => seconds(row.age_s), number: true },
    { head: "topic", text: (row) => row.topic, click: (row) => openTopic(row.topic) },
    { head: "event", text: eventId, click: (row) => row.id !== null && openEvent(row) },
    { head: "subscriber", text: (row) => subscriberName(row.subscriber) },
    { head: "state", text: (row) => row.state.replace("_", " "), short: true },
    { head: "process", text: (row) => (row.pid === null ? "" : `${row.pid} ${row.command}`.trim()) },
    { head: "attempt", text: (row) => (row.attempt > 1 ? String(row.attempt) : ""), number: true },
    { head: "why", text: (row) => row.last_error ?? row.why, wide: true, bad: (row) => row.last_error !== null },
  ],
  (row) => JSON.stringify([row.topic, row.id, row.int, row.subscriber]),
  "Nothing has been unsettled for more than a second.",
);

const topics = new Table(
  at("topics"), "Topics",
  [
    { head: "topic", text: (row) => row.name, click: (row) => openTopic(row.name) },
    { head: "events/s", text: (row) => rate(row.rate), number: true },
    { head: "last minute", node: (row) => sparklines.draw(row.name) },
    { head: "backlog", text: (row) => count(row.unsettled), number: true },
    { head: "oldest", text: (row) => seconds(row.oldest_age_s), number: true },
    { head: "bytes", text: (row) => bytes(row.bytes_unsettled), number: true },
    { head: "notified", text: (row) => count(row.notified), number: true },
    { head: "dropped", text: (row) => count(row.dropped), number: true },
  ],
  (row) => row.name, "No topic.",
);

const reasonsOf = (row) =>
  Object.entries(row.skip_reasons).sort(([, a], [, b]) => b - a).slice(0, 5).map(([why, n]) => `${count(n)} ${why}`);
const hostsOf = (row) =>
  row.pids.length ? row.pids.slice(0, 8).join(" ") : `none, stays for ${seconds(row.grace_left_s)}`;

const subscribers = new Table(
  at("subscribers"), "Subscribers",
  [
    { head: "subscriber", text: subscriberName },
    { head: "patterns", text: (row) => row.patterns.join(" ") },
    { head: "done/s", text: (row) => rate(row.rate), number: true },
    { head: "queued", text: (row) => count(row.queued), number: true },
    { head: "in flight", text: (row) => count(row.in_flight), number: true },
    { head: "p50", text: (row) => seconds(row.handling_p50_s), number: true },
    { head: "p99", text: (row) => seconds(row.handling_p99_s), number: true },
    { head: "again", text: (row) => count(row.redelivered), number: true },
    { head: "skipped", text: (row) => count(row.skipped), number: true },
    { head: "skipped why", text: (row) => reasonsOf(row).join("; ") },
    { head: "processes", text: hostsOf, bad: (row) => row.pids.length === 0 },
  ],
  subscriberName, "No subscriber.",
);

const processes = new Table(
  at("processes"), "Processes",
  [
    { head: "pid", text: (row) => String(row.pid), number: true },
    { head: "role", text: (row) => row.role, short: true },
    { head: "in flight", text: (row) => count(row.in_flight), number: true },
    { head: "connected", text: (row) => seconds(row.connected_s), number: true },
    { head: "command", text: (row) => row.command, wide: true },
  ],
  (row) => `${row.role} ${row.pid}`, "No process.",
);

const holders = new Table(
  at("holders"), "Who holds memory",
  [
    { head: "pid", text: (row) => String(row.pid), number: true },
    { head: "wrote", text: (row) => bytes(row.bytes_written), number: true },
    { head: "views", text: (row) => count(row.views), number: true },
    { head: "viewed", text: (row) => bytes(row.bytes_viewed), number: true },
    { head: "command", text: (row) => row.command, wide: true },
  ],
  (row) => String(row.pid), "Nobody holds memory.",
);

// --- what a look says ---

function say(text, kind) {
  const place = at("state");
  if (place.textContent !== text) place.textContent = text;
  place.className = kind;
  document.querySelector("main").classList.toggle("stale", kind !== "up");
}

function show(message) {
  offerJournal(message.has_journal);
  if (!message.is_up) {
    say(message.error, "down");
    return;
  }
  look = message;
  const now = look.snapshot;
  document.title = `${now.bus} (${count(now.events.unsettled)})`;
  at("bus").textContent = now.bus;
  say("live", "up");
  showNumbers(at("numbers"), {
    "events/s": rate(message.rate),
    unsettled: count(now.events.unsettled),
    notified: count(now.events.notified),
    dropped: count(now.events.dropped),
    topics: count(now.totals.topics),
    subscribers: count(now.totals.subscribers),
    processes: count(now.totals.processes),
    manager: String(now.manager.pid),
    takeovers: count(now.manager.takeovers),
    uptime: seconds(now.manager.uptime_s),
  });
  stuck.show(look.stuck);
  subscribers.show([...now.subscribers].sort((a, b) => b.queued + b.in_flight - a.queued - a.in_flight));
  processes.show(now.processes);
  showMemory(now);
  showTopics();
}

function showMemory(now) {
  const { memory } = now;
  at("memory-meter").max = memory.bytes_max;
  at("memory-meter").high = 0.8 * memory.bytes_max;
  at("memory-meter").low = 0.5 * memory.bytes_max;
  at("memory-meter").value = memory.bytes_used;
  at("memory-text").textContent =
    `${bytes(memory.bytes_used)} of ${bytes(memory.bytes_max)} used, ${bytes(memory.bytes_leased)} kept by views, ` +
    `${bytes(memory.bytes_spilled)} in files, ${bytes(memory.bytes_of_the_gone)} written by processes that have left`;
  const held = now.processes.filter((row) => row.bytes_written + row.bytes_viewed > 0);
  held.sort((a, b) => b.bytes_written + b.bytes_viewed - a.bytes_written - a.bytes_viewed);
  holders.show(held.slice(0, 20));
}

// --- topics: those of the look, or those that the server finds among many ---

const order = { name: (a, b) => (a.name < b.name ? -1 : 1) };

let asked = 0;

async function showTopics() {
  const mine = ++asked;
  const now = look.snapshot;
  const wanted = { match: at("filter").value.trim(), sort: at("sort").value, limit: Math.min(rows, 500) };
  let found = now.topics.filter((row) => row.name.toLowerCase().includes(wanted.match.toLowerCase()));
  let total = found.length;
  let available = total;
  found.sort(order[wanted.sort] ?? ((a, b) => (b[wanted.sort] ?? 0) - (a[wanted.sort] ?? 0)));
  if (now.totals.topics > now.topics.length && (wanted.match !== "" || wanted.sort !== "unsettled")) {
    try {
      ({ topics: found, total } = await get("topics", wanted));
    } catch (error) {
      if (mine === asked) at("topics-count").textContent = error.message;
      return;
    }
    if (mine !== asked) return; // There is a newer question.
    available = Math.min(total, 500);
  } else if (wanted.match === "") {
    total = now.totals.topics;
  }
  found = found.slice(0, rows);
  sparklines.add(found);
  topics.show(found);
  at("topics-count").textContent = `${count(found.length)} of ${count(total)} topics`;
  at("topics-more").hidden = found.length >= available;
}

// --- the stream ---

function open() {
  if (isPaused || document.hidden) return;
  followJournal(() => look?.snapshot.subscribers ?? []);
  if (stream !== null) return;
  stream = new EventSource("sse");
  for (const name of ["init", "snapshot"]) stream.addEventListener(name, (event) => show(JSON.parse(event.data)));
  stream.addEventListener("init", () => learnActions().catch((error) => say(error.message, "down")));
  stream.addEventListener("over", () => {
    stream.close();
    stream = null;
    open();
  });
  stream.addEventListener("error", () => {
    say("disconnected; it is tried again", "down");
    if (stream.readyState === EventSource.CLOSED) {
      close();
      setTimeout(open, RETRY_MS);
    }
  });
}

function close() {
  closeJournal();
  stream?.close();
  stream = null;
}

at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) {
    close();
    say("paused", "");
  } else open();
});
document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, select") || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  at("filter").focus();
});
at("topics-form").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["filter", "sort"]) at(name).addEventListener("input", () => look !== null && showTopics());
at("topics-more").addEventListener("click", () => {
  rows += ROWS;
  showTopics();
});
open();
