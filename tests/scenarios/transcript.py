"""The language of the transcripts: lines that become messages to the core, and effects that become lines.

Processes, subscribers and events go by name; an event is `topic/name` when it is notified and `name` from then on.
A line that begins with `memory` is no effect: it says that the memory in use changed, in chunks of 256 KiB.
"""

import itertools
import re

from eventbus_mp.config import BusConfig
from eventbus_mp.core.bus import BusCore
from eventbus_mp.geometry import CHUNK_BYTES, SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol import records
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
    Stop,
    TellTopicStale,
    Warn,
    WarnOfLease,
)
from eventbus_mp.protocol.messages import (
    SPAN_AHEAD,
    SPAN_CANCELLED,
    SPAN_NEEDED,
    SPAN_RESERVE,
    DeliveriesSettled,
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
from eventbus_mp.protocol.requests import (
    Drain,
    Goodbye,
    LeaseEvent,
    MarkEvent,
    RegisterTopic,
    ReportState,
    StopHosting,
    Subscribe,
    UnregisterTopic,
    Unsubscribe,
    WatchEvent,
)

MS = 1_000_000
EVENT_BYTES = 64


def rewritten(text):
    """The transcript with the effects that the core has now."""
    play = Play()
    chunks = []
    for block in re.split(r"\n\n+", text.strip()):
        commands = block.partition("\n----")[0]
        lines = [line for command in commands.splitlines() for line in play.perform(command)]
        silent = all(line.startswith("#") for line in commands.splitlines())
        chunks.append(commands if silent else "\n".join([commands, "----", *lines]))
    return "\n\n".join(chunks) + "\n"


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
            self.core = BusCore(BusConfig(**self.settings(options), check_invariants=True), 0)
            return []
        effects = getattr(self, "do_" + command.replace("-", "_"))(*words, **options)
        lines = [self.line_of(effect) for effect in effects]
        used_bytes, self.used_bytes = self.used_bytes, self.core.state.spans.used_bytes
        if used_bytes != self.used_bytes:
            lines.append(f"memory {used_bytes // CHUNK_BYTES} -> {self.used_bytes // CHUNK_BYTES}")
        return lines

    @staticmethod
    def settings(options):
        numbers = {
            "memory_chunks": "memory_bytes_max",
            "crashes_max": "crashes_max",
            "orphan_grace_s": "orphan_grace_s",
        }
        settings = {numbers[name]: int(value) for name, value in options.items() if name in numbers}
        settings["memory_bytes_max"] = settings.get("memory_bytes_max", 16) * CHUNK_BYTES
        return {**settings, "dead_letter_topic": options.get("dead_letter_topic")}

    def send(self, message):
        self.now_ns += 1
        return self.core.handle(message, self.now_ns)

    def ask(self, kind, link, *fields):
        return self.send(kind(self.links[link], next(self.requests), *fields))

    # --- commands ---

    def do_open(self, link):
        self.links[link] = len(self.links) + 1
        self.serials[link] = itertools.count((self.links[link] << SEQUENCE_LINK_SHIFT) + 1)
        return self.send(LinkOpened(self.links[link], 100 + self.links[link]))

    def do_crash(self, link):
        return self.send(LinkLost(self.links[link], crashed=True))

    def do_leave(self, link):
        return self.ask(Goodbye, link) + self.send(LinkLost(self.links[link], crashed=True))

    def do_register(self, link, topic):
        effects = self.ask(RegisterTopic, link, topic)
        self.topics[topic] = self.core.state.registry.topics[topic].number
        return effects

    def do_unregister(self, link, topic):
        return self.ask(UnregisterTopic, link, topic)

    def do_subscribe(self, link, name, patterns, credit="1"):
        broadcast = "--broadcast" in self.flags
        number = 0 if credit == "auto" else int(credit)
        effects = self.ask(Subscribe, link, name, b"", patterns.split(","), number, broadcast)
        if type(effects[0]) is Reply:
            self.subscribers[name] = effects[0].value
        return effects

    def do_unsubscribe(self, link, name):
        return self.ask(Unsubscribe, link, name, b"")

    def do_stop_hosting(self, link, name):
        return self.ask(StopHosting, link, self.subscribers[name])

    def do_want(self, link, chunks, urgency="needed"):
        urgencies = {"ahead": SPAN_AHEAD, "needed": SPAN_NEEDED, "reserve": SPAN_RESERVE}
        number = {**urgencies, "cancelled": SPAN_CANCELLED}[urgency]
        return self.send(SpanWanted(self.links[link], int(chunks) * CHUNK_BYTES, number))

    def do_seal(self, link):
        segment, offset, _ = self.spans[link].pop(0)
        return self.send(SpanSealed(self.links[link], segment, offset))

    def do_notify(self, link, *events, ttl_ms=None):
        packed = []
        for event in events:
            topic, name = event.split("/")
            sequence = next(self.serials[link])
            span = self.spans[link][-1]
            deadline_ns = self.now_ns + int(ttl_ms) * MS if ttl_ms else 0
            awaited = "--awaited" in self.flags
            place = span[0], span[1] + span[2]
            span[2] += EVENT_BYTES
            packed.append(
                records.pack_notified(self.topics[topic], *place, EVENT_BYTES, deadline_ns, sequence, awaited)
            )
            self.events[name] = sequence
            self.records[sequence] = (self.topics[topic], *place)
        (message,) = ManagerDecoder(self.links[link]).feed(b"".join(packed))
        return self.send(message)

    def _settle(self, outcome, link, name, *events):
        ranges = [(self.events[event], 1) for event in events]
        return self.send(DeliveriesSettled(self.links[link], self.subscribers[name], outcome, ranges))

    def do_completed(self, *words):
        return self._settle(Outcome.COMPLETED, *words)

    def do_skipped(self, *words):
        return self._settle(Outcome.SKIPPED, *words)

    def do_returned(self, *words):
        return self._settle(Outcome.RETURNED, *words)

    def do_failed(self, *words):
        return self._settle(Outcome.FAILED, *words)

    def do_mark(self, link, name, event, outcome):
        sequence = self.events[event]
        number = Outcome[outcome.upper()]
        return self.ask(MarkEvent, link, self.records[sequence][0], sequence, name, b"", number)

    def do_watch(self, link, event):
        sequence = self.events[event]
        return self.ask(WatchEvent, link, self.records[sequence][0], sequence)

    def do_lease(self, link, event):
        sequence = self.events[event]
        topic, _, offset = self.records[sequence]
        return self.ask(LeaseEvent, link, topic, offset, EVENT_BYTES, sequence)

    def do_release(self, link, event):
        return self.send(SpanReleased(self.links[link], self.events[event]))

    def do_drain(self, link, pattern):
        return self.ask(Drain, link, pattern)

    def do_replaced(self, pid):
        return self.send(ManagerReplaced(int(pid)))

    def do_report(self, link, pid, name, *events):
        held = [[self.subscribers[name], [part for event in events for part in (self.events[event], 1)]]]
        spans = [[segment, offset] for segment, offset, _ in self.spans.get(link, [])]
        return self.ask(ReportState, link, int(pid), held, [] if "--no-spans" in self.flags else spans)

    def do_pass(self, ms):
        self.now_ns += int(ms.removesuffix("ms")) * MS
        return self.send(TimePassed())

    # --- effects ---

    def line_of(self, effect):
        return self._LINES[type(effect)](self, effect)

    def _link(self, number):
        return next(name for name, found in self.links.items() if found == number)

    def _subscriber(self, number):
        return next(name for name, found in self.subscribers.items() if found == number)

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
        if isinstance(value, dict):
            parts = {"subscribers": "subscribers", "completers": "completed", "skippers": "skipped"}
            value = " ".join(f"{parts[part]}={','.join(key[0] for key in keys) or '-'}" for part, keys in value.items())
        return f"reply {self._link(effect.link)}{about}: {value}"

    def _line_of_grant(self, effect):
        link = self._link(effect.link)
        if not effect.segment:
            return f"grant {link} nothing: {'it never fits' if effect.backed else 'not now'}"
        self.spans.setdefault(link, []).append([effect.segment, effect.offset, 0])
        return f"grant {link} {effect.length // CHUNK_BYTES} {'warm' if effect.backed else 'cold'}"

    _LINES = {  # noqa: RUF012
        Deliver: _line_of_deliver,
        Reply: _line_of_reply,
        GrantSpan: _line_of_grant,
        Refuse: lambda self, fx: f"refuse {self._link(fx.link)} {fx.error}: {self._named(fx.text)}",
        TellTopicStale: lambda self, fx: f"tell {self._link(fx.link)} topic {fx.topic} is stale",
        CloseLink: lambda self, fx: f"close {self._link(fx.link)}: {self._named(fx.reason)}",
        Warn: lambda self, fx: f"warn {self._named(fx.text)}",
        CreateSegment: lambda self, fx: f"create segment of {fx.length // CHUNK_BYTES}",
        RemoveSegment: lambda self, fx: "remove segment",
        FreePages: lambda self, fx: f"free the pages of {fx.length // CHUNK_BYTES}",
        WarnOfLease: lambda self, fx: (
            f"warn of lease: {fx.topic} {self._named(hex(fx.sequence))}, process {fx.pid}, {fx.age_s:.0f} s"
        ),
        NameSkip: lambda self, fx: (
            f"{'give up' if fx.is_given_up else 'skip'} {self._named(hex(RECORD.unpack(fx.packed_record)[-1]))} "
            f"of {fx.topic} for {fx.name}: {fx.reason}"
        ),
        Stop: lambda self, fx: "stop",
    }
