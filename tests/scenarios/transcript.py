"""The language of the transcripts: lines that become messages to the core, and effects that become lines.

Processes, subscribers and events go by name; an event is `topic/name` when it is notified and `name` from then on.
A line that begins with `memory` is not an effect: it says that the memory in use changed, in chunks of 256 KiB.

`ask` asks any request by the name of its class, and any effect has a line, its name and its fields. A command or a line
of its own is for what reads better so.
"""

import itertools
import re
from typing import Any

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.core.entities import shown_name
from eventbus_mp.geometry import CHUNK_BYTES, SEQUENCE_LINK_SHIFT, SPILLED_FROM
from eventbus_mp.protocol import records, requests
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.effects import (
    CloseLink,
    CreateSegment,
    Deliver,
    FreePages,
    GrantSpan,
    NameSkip,
    Refuse,
    RemoveSegment,
    Reply,
    ReplyWithFacts,
    Stop,
    Tell,
    Warn,
    WarnOfLease,
    WriteEvent,
)
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import (
    DeliveriesSettled,
    DeliveriesTaken,
    EndAsked,
    LinkLost,
    LinkOpened,
    ManagerReplaced,
    Outcome,
    SpanReleased,
    SpanSealed,
    SpanWanted,
    TimePassed,
)
from eventbus_mp.protocol.records import RECORD
from tests.scenarios.answers import history_lines, said_facts, snapshot_lines, unsettled_lines
from tests.scenarios.questions import crc_of, fields_of, settings_of, subscription_of, wire_key
from tests.transcripts import in_words

MS = 1_000_000
EVENT_BYTES = 64


class Play:
    def __init__(self):
        self.core = None
        self.now_ns = 0
        self.requests = itertools.count(1)
        self.links, self.subscribers, self.topics = {}, {}, {}
        self.events, self.records, self.serials = {}, {}, {}
        self.spans = {}
        self.used_bytes = 0

    def perform(self, line):
        """Do what a line says: the lines for what came of it."""
        if line.startswith("#"):
            return []
        command, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        self.flags = [word for word in words if word.startswith("--")]
        words = [word for word in words if "=" not in word and not word.startswith("--")]
        if command == "bus":
            self.core = BusCore(BusConfig(**settings_of(options), check_invariants=True), 0)
            return []
        effects = getattr(self, "do_" + command.replace("-", "_"))(*words, **options)
        lines = [self.line_of(effect) for effect in effects]
        used_bytes, self.used_bytes = self.used_bytes, self.core.state.spans.used_bytes
        if used_bytes != self.used_bytes:
            lines.append(f"memory {used_bytes // CHUNK_BYTES} -> {self.used_bytes // CHUNK_BYTES}")
        return lines

    def send(self, message):
        self.now_ns += 1
        return self.core.handle(message, self.now_ns)

    def ask(self, kind, link, *fields):
        return self.send(kind(self.links[link], next(self.requests), *fields))

    # --- commands ---

    def do_ask(self, link, kind, *words):
        kind = getattr(requests, kind)
        numbers = {"subscriber": self.subscribers, "topic": self.topics, "sequence": self.events}
        return self.ask(kind, link, *fields_of(kind, words, numbers))

    def do_open(self, link):
        self.links[link] = len(self.links) + 1
        self.serials[link] = itertools.count((self.links[link] << SEQUENCE_LINK_SHIFT) + 1)
        return self.send(LinkOpened(self.links[link], 100 + self.links[link]))

    def do_crash(self, link):
        return self.send(LinkLost(self.links[link], crashed=True))

    def do_leave(self, link):
        return self.ask(requests.Goodbye, link) + self.send(LinkLost(self.links[link], crashed=True))

    def do_register(self, link, topic):
        effects = self.ask(requests.RegisterTopic, link, topic)
        self.topics[topic] = self.core.state.registry.topics[topic].number
        return effects

    def do_unregister(self, link, topic):
        return self.ask(requests.UnregisterTopic, link, topic)

    def do_subscribe(self, link, name, patterns, credit="1", threads="1", scope="host", bound="0:0:block"):
        fields = subscription_of(name, patterns, credit, threads, scope, bound, self.flags)
        effects = self.ask(requests.Subscribe, link, *fields)
        numbers = [effect.value for effect in effects if type(effect) is Reply]
        if numbers:
            self.subscribers[name] = numbers[0]
        return effects

    def do_unsubscribe(self, link, name):
        return self.ask(requests.Unsubscribe, link, *wire_key(name))

    def do_stop_hosting(self, link, name):
        return self.ask(requests.StopHosting, link, self.subscribers[name], "--ends" in self.flags)

    def do_want(self, link, chunks, urgency="needed", by=None, topic=None):
        number = ("ahead", "needed", "reserve", "cancelled").index(urgency)
        of = (self.subscribers[by], self.topics[topic]) if by else ()
        return self.send(SpanWanted(self.links[link], int(chunks) * CHUNK_BYTES, number, *of))

    def do_seal(self, link):
        segment, offset, _ = self.spans[link].pop(0)
        return self.send(SpanSealed(self.links[link], segment, offset))

    def do_notify(self, link, *events, ttl_ms=None, kib=None):
        nbytes = int(kib) << 10 if kib else EVENT_BYTES
        packed = []
        for event in events:
            topic, name = event.split("/")
            sequence = next(self.serials[link])
            span = self.spans[link][-1]
            deadline_ns = self.now_ns + int(ttl_ms) * MS if ttl_ms else 0
            awaited = "--awaited" in self.flags
            place = span[0], span[1] + span[2]
            span[2] += nbytes
            packed.append(
                records.pack_notified(self.topics[topic], *place, nbytes, deadline_ns, sequence, awaited, crc_of(name))
            )
            self.events[name] = sequence
            self.records[sequence] = (self.topics[topic], *place)
        (message,) = ManagerDecoder(self.links[link]).feed(b"".join(packed))
        return self.send(message)

    def _settle(self, outcome, link, name, *events, cost_ns="0"):
        ranges = [(self.events[event], 1) for event in events]
        return self.send(DeliveriesSettled(self.links[link], self.subscribers[name], outcome, ranges, int(cost_ns)))

    def do_completed(self, *words, **options):
        return self._settle(Outcome.COMPLETED, *words, **options)

    def do_skipped(self, *words):
        return self._settle(Outcome.SKIPPED, *words)

    def do_returned(self, *words):
        return self._settle(Outcome.RETURNED, *words)

    def do_released(self, *words, **options):
        return self._hand_back(Outcome.RETURNED, *words, **options)

    def do_failed(self, *words):
        return self._settle(Outcome.FAILED, *words)

    def do_retried(self, *words, **options):
        return self._hand_back(Outcome.RETRIED, *words, **options)

    def _hand_back(self, outcome, link, name, *events, ms="0"):
        ranges = [(self.events[event], 1) for event in events]
        number = self.subscribers[name]
        return self.send(DeliveriesSettled(self.links[link], number, outcome, ranges, delay_ns=int(ms) * MS))

    def do_failure(self, link, name, event, text, tries="1"):
        sequence = self.events[event]
        return self.ask(
            requests.ReportFailure, link, self.subscribers[name], sequence, int(tries), "ValueError", text, "tail"
        )

    def do_letters(self, link):
        effects = self.ask(requests.ListDeadLetters, link, 0, 100)
        self.listed = effects[0].value
        return effects

    def do_redeliver(self, link, event="all"):
        return self.ask(requests.Redeliver, link, self.events.get(event, 0))

    def do_taken(self, link, name, *events):
        ranges = [(self.events[event], 1) for event in events]
        return self.send(DeliveriesTaken(self.links[link], self.subscribers[name], ranges))

    def do_mark(self, link, name, *words, reason=""):
        *events, outcome = words
        numbers = [self.events[event] for event in events]
        pairs = [part for sequence in numbers for part in (self.records[sequence][0], sequence)]
        return self.ask(requests.MarkEvents, link, *wire_key(name), Outcome[outcome.upper()], reason, pairs)

    def do_direct(self, link, *names):
        return self.ask(requests.Direct, link, [list(wire_key(name)) for name in names], "--imported" in self.flags)

    def do_settle_ranges(self, link, name, outcome, *events, reason=""):
        fields = Outcome[outcome.upper()], reason, self._flat(events)
        return self.ask(requests.SettleRanges, link, *wire_key(name), *fields)

    def _flat(self, events):
        return [part for event in events for part in (self.events[event], 1)]

    def do_watch(self, link, event):
        sequence = self.events[event]
        return self.ask(requests.WatchEvent, link, self.records[sequence][0], sequence)

    def do_lease(self, link, event):
        sequence = self.events[event]
        topic, _, offset = self.records[sequence]
        return self.ask(requests.LeaseEvent, link, topic, offset, EVENT_BYTES, sequence)

    def do_release(self, link, event):
        return self.send(SpanReleased(self.links[link], self.events[event]))

    def do_require(self, link, topic, names):
        return self.ask(requests.RequireSubscribers, link, topic, names.split(","))

    def do_list(self, link, topic, after="", limit="1000"):
        effects = self.ask(requests.ListEvents, link, topic, self.events[after] if after else 0, int(limit))
        names = {sequence: name for name, sequence in self.events.items()}
        for effect in effects:
            if type(effect) is Reply:
                found = [names[RECORD.unpack(item["record"])[-1]] for item in effect.value]
                effect.value = " ".join(found) or "nothing"
        return effects

    def do_drain(self, link, pattern):
        return self.ask(requests.Drain, link, pattern)

    def do_snapshot(self, link):
        return self.ask(requests.GetSnapshot, link, -1)

    def do_cut_off(self, link, late, name, event="", why=""):
        """A pool says that it kills a process for this event of this subscriber; none: it was a batch."""
        return self.ask(requests.CutOff, link, self.links[late], self.subscribers[name], self.events.get(event, 0), why)

    def do_explain(self, link, event):
        return self.ask(requests.ExplainEvent, link, self.events[event])

    def do_stuck(self, link, ms, limit="100", topic=None):
        return self.ask(requests.ListStuck, link, int(ms.removesuffix("ms")) * MS, int(limit), topic)

    def do_find(self, link, topic, event):
        return self.ask(requests.FindEvents, link, topic, crc_of(event), "--settled" in self.flags)

    def do_history(self, link, *, event=None, topic=None, subscriber=None, kind=None, limit="100", before=None):
        """A page of entries; `before=next` goes on from the last one."""
        number = HistoryKind[kind.upper()] if kind else 0
        sequence = self.events[event] if event else 0
        cursor = self.cursor if before else []
        return self.ask(requests.GetHistory, link, sequence, topic, subscriber, number, 0, int(limit), cursor)

    def do_replaced(self, pid):
        return self.send(ManagerReplaced(int(pid)))

    def do_report(self, link, pid, name, *events):
        held = [[self.subscribers[name], self._flat(events)]]
        spans = [[segment, offset] for segment, offset, _ in self.spans.get(link, [])]
        return self.ask(requests.ReportState, link, int(pid), held, [] if "--no-spans" in self.flags else spans)

    def do_pass(self, ms):
        self.now_ns += int(ms.removesuffix("ms")) * MS
        return self.send(TimePassed())

    def do_ask_end(self):
        return self.send(EndAsked())

    # --- effects ---

    def line_of(self, effect):
        return self._LINES.get(type(effect), Play._said)(self, effect)

    def _said(self, item):
        """An effect or event: what it is called, and its fields."""
        names = {"link": self._link, "subscriber": self._subscriber}
        values = {field: getattr(item, field) for field in item.FIELDS}
        said = [f"{name}={names.get(name, str)(value)}" for name, value in values.items()]
        return " ".join([in_words(type(item)), *said])

    def _link(self, number):
        return next(name for name, found in self.links.items() if found == number)

    def _subscriber(self, number):
        return next((name for name, found in self.subscribers.items() if found == number), f"#{number}")

    def _named(self, text):
        """The text, with events by name instead of by sequence."""
        names = {f"{sequence:#x}": name for name, sequence in self.events.items()}
        return re.sub("0x[0-9a-f]+", lambda found: names.get(found[0], found[0]), text)

    def _line_of_deliver(self, effect):
        names = {sequence: name for name, sequence in self.events.items()}
        events = " ".join(names[sequence] for *_, sequence in RECORD.iter_unpack(effect.packed))
        attempt = f" attempt={effect.attempt}" if effect.attempt > 1 else ""
        return f"deliver {self._link(effect.link)} {self._subscriber(effect.subscriber)} {events}{attempt}"

    def _line_of_reply(self, effect):
        names = {sequence: name for name, sequence in self.events.items()}
        about = f" {names[effect.request]}" if effect.request in names else ""
        value = effect.value
        if isinstance(value, bytes):
            value = " ".join(names[sequence] for *_, sequence in RECORD.iter_unpack(value)) or "none"
        if isinstance(value, dict) and "deliveries" in value:
            return unsettled_lines(self._link(effect.link), value, names)
        if isinstance(value, dict) and "counts" in value:
            self.cursor = value["before"]
            return history_lines(self._link(effect.link), value)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = "; ".join(map(self._said_of_letter, value)) or "none"
        if isinstance(value, dict):
            parts = {"subscribers": "subscribers", "completers": "completed", "skippers": "skipped"}
            value = " ".join(f"{parts[part]}={','.join(map(shown_name, keys)) or '-'}" for part, keys in value.items())
        return f"reply {self._link(effect.link)}{about}: {value}"

    def _line_of_snapshot(self, effect):
        return snapshot_lines(self._link(effect.link), effect.value)

    def _said_of_letter(self, letter):
        event = self._named(hex(RECORD.unpack(letter["record"])[-1]))
        error = f"{letter['error']}: {letter['text']}" if letter["error"] else letter["text"] or "no error"
        ms = [letter[name] // MS for name in ("first_ns", "last_ns")]
        reason = letter["reason"] or "no reason"
        return f"{event} for {letter['name']} ({reason}), {error}, {letter['attempts']} attempts, {ms[0]} to {ms[1]} ms"

    def _line_of_grant(self, effect):
        link = self._link(effect.link)
        if not effect.segment:
            return f"grant {link} nothing: {'it never fits' if effect.backed else 'not now'}"
        self.spans.setdefault(link, []).append([effect.segment, effect.offset, 0])
        return f"grant {link} {effect.length // CHUNK_BYTES} {'warm' if effect.backed else 'cold'}"

    def _line_of_write(self, effect):
        """An event of the bus's own is `life1`, `life2` and so on from then on."""
        name = "life" + effect.event_id.rpartition("-")[2]
        self.events[name] = effect.sequence
        return f"write {name}: {said_facts(effect.data)}"

    _LINES: dict[type, Any] = {  # noqa: RUF012
        Deliver: _line_of_deliver,
        Tell: lambda self, fx: f"tell {self._link(fx.link)} {self._said(fx.event)}",
        Reply: _line_of_reply,
        ReplyWithFacts: _line_of_snapshot,
        GrantSpan: _line_of_grant,
        Refuse: lambda self, fx: f"refuse {self._link(fx.link)} {fx.error}: {self._named(fx.text)}",
        CloseLink: lambda self, fx: f"close {self._link(fx.link)}: {self._named(fx.reason)}",
        Warn: lambda self, fx: f"warn {self._named(fx.text)}",
        CreateSegment: lambda self, fx: (
            f"create {('segment', 'file')[fx.segment >= SPILLED_FROM]} of {fx.length // CHUNK_BYTES}"
        ),
        RemoveSegment: lambda self, fx: "remove segment",
        FreePages: lambda self, fx: f"free the pages of {fx.length // CHUNK_BYTES}",
        WarnOfLease: lambda self, fx: (
            f"warn of lease: {fx.topic} {self._named(hex(fx.sequence))}, process {fx.pid}, {fx.age_s:.0f} s"
        ),
        NameSkip: lambda self, fx: (
            f"{'give up' if fx.is_given_up else 'skip'} {self._named(hex(RECORD.unpack(fx.packed_record)[-1]))} "
            f"of {fx.topic} for {fx.name}: {fx.reason}"
        ),
        WriteEvent: _line_of_write,
        Stop: lambda self, fx: "stop",
    }
