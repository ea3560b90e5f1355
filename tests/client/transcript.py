"""The language of the client's transcripts: calls of `ClientProtocol`, and what it says and gives out in return.

Above `----` stand calls, one a line; below it what came of them: `send` is what the manager would read, `event` what
the shell is given, `pending` a queue that changed. Events go by name, and get the sequence numbers 1, 2, 3 ...;
`receive` takes several messages of the manager, separated by `|`, as one read would bring them, and with `--in-pieces`
byte by byte. Any event that is one record goes by the name of its class, with its fields in their order.
"""

from typing import Any

import msgpack

from eventbus_mp import EventBusError, SubscriberKey
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.protocol import ClientProtocol
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.events import Place
from eventbus_mp.geometry import CHUNK_BYTES
from eventbus_mp.protocol import messages, records
from eventbus_mp.protocol.client_events import (
    RECORD_EVENTS,
    ClientEvent,
    Delivered,
    Replied,
    SpanGranted,
    TopicStale,
    pack_client_event,
)
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import (
    DeliveriesSettled,
    DeliveriesTaken,
    EventsNotified,
    Outcome,
    SpanSealed,
    SpanWanted,
)
from eventbus_mp.protocol.requests import REQUESTS, Request
from tests.transcripts import in_words

LINK = 0
EVENT_BYTES = 64
QUESTIONS = {kind.__name__: kind for kind in REQUESTS.values()}
EVENTS = {in_words(kind).replace(" ", "-"): kind for kind in RECORD_EVENTS.values()}
URGENCIES = {"ahead": messages.SPAN_AHEAD, "needed": messages.SPAN_NEEDED, "reserve": messages.SPAN_RESERVE}


class Play:
    """One client, from its first call to its last."""

    def __init__(self) -> None:
        self.protocol = ClientProtocol(LINK, 16 * CHUNK_BYTES, manager_pid=100)
        self.manager = ManagerDecoder(LINK)
        self.numbers: dict[str, int] = {}
        """Events by name."""
        self.endpoints: dict[str, ClientEndpoint] = {}

    def perform(self, line: str) -> list[str]:
        """Do what a line says: the lines that say what came of it."""
        if line.startswith("#"):
            return []
        command, *words = line.split()
        flags = [word for word in words if word.startswith("--")]
        words = [word for word in words if not word.startswith("--")]
        pending = self.pending()
        try:
            said = getattr(self, "do_" + command.replace("-", "_"))(*words, *flags) or []
        except EventBusError as error:
            said = [f"raise {type(error).__name__}: {error}"]
        said += [self.said(message) for message in self.manager.feed(self.protocol.data_to_send())]
        self.endpoints = {item.key.name: item for item in self.protocol.endpoints}
        now = self.pending()
        return said + [f"pending {name}: {now[name]}" for name in now if now[name] != pending.get(name, "-")]

    def pending(self) -> dict[str, str]:
        return {
            item.key.name: " ".join(self.name(record[7]) for record in item.pending) or "-"
            for item in self.protocol.endpoints
        }

    def sequence(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)

    def name(self, sequence: int) -> str:
        return next((name for name, number in self.numbers.items() if number == sequence), f"#{sequence}")

    # --- calls ---

    def do_subscribe(self, name: str, patterns: str) -> None:
        self.protocol.subscribe(SubscriberKey(name), b"", Subscription(tuple(patterns.split(","))))

    def do_ask(self, kind: str, *fields: str) -> list[str]:
        return [f"request #{self.protocol.request(QUESTIONS[kind], *fields)}"]

    def do_reply_of(self, number: str) -> list[str]:
        if not self.protocol.has_reply(int(number)):
            return ["none yet"]
        return [f"answer {self.protocol.take_reply(int(number))!r}"]

    def do_cancel(self, number: str) -> None:
        self.protocol.cancel_wait(int(number))

    def do_take(self, name: str) -> list[str]:
        records = self.endpoints[name].take_many(1)
        return [f"taken {self.name(record[7])}" for record in records] or ["nothing"]

    def do_settle(self, name: str, event: str, outcome: str, *reason: str) -> list[str]:
        in_flight = self.endpoints[name].settle(self.sequence(event), Outcome[outcome.upper()], " ".join(reason))
        return [] if in_flight else ["it is not in flight"]

    def do_report(self, name: str) -> None:
        endpoint = self.endpoints[name]
        for outcome, sequences in endpoint.take_outcomes():
            self.protocol.settle(endpoint, outcome, sequences)
        self.protocol.keep(endpoint, endpoint.take_kept())

    def do_return_unstarted(self, name: str) -> None:
        self.endpoints[name].return_unstarted()
        self.do_report(name)

    def do_forget(self, name: str) -> list[str]:
        endpoint = self.endpoints[name]
        self.protocol.forget(endpoint)
        return [f"over: {endpoint.is_over}"]

    def do_notify(self, topic: str, name: str, *flags: str) -> None:
        number = self.protocol.topics[topic]
        self.numbers[name] = self.protocol.next_sequence()
        self.protocol.notify(number, 1, self.numbers[name] * EVENT_BYTES, EVENT_BYTES, awaited="--awaited" in flags)

    def do_require(self, topic: str, *names: str) -> list[str]:
        return [f"request #{self.protocol.require(topic, list(names))}"]

    def do_knows(self) -> list[str]:
        return [f"topics {self.protocol.topics}"]

    def do_know(self, topic: str, number: str) -> None:
        self.protocol.topics[topic] = int(number)

    def do_order(self, arena: str, chunks: str, urgency: str, count: str = "1") -> None:
        self.protocol.order_spans(arena, int(chunks) * CHUNK_BYTES, URGENCIES[urgency], int(count))

    def do_give_up(self, chunks: str) -> None:
        self.protocol.cancel_spans(int(chunks) * CHUNK_BYTES)

    def do_lease(self, event: str) -> None:
        self.protocol.lease(Place(1, 1, 0, EVENT_BYTES, self.sequence(event)))

    def do_release(self, event: str) -> None:
        self.protocol.release(self.sequence(event))

    def do_resync(self, *spans: str) -> None:
        self.protocol.resync([(1, int(span)) for span in spans])

    def do_receive(self, *words: str) -> list[str]:
        pieces = "--in-pieces" in words
        data = b"".join(self.frames(part.split()) for part in " ".join(words).replace("--in-pieces", "").split("|"))
        said = []
        for piece in [data[at : at + 1] for at in range(len(data))] if pieces else [data]:
            self.protocol.receive_data(piece)
            while (event := self.protocol.next_event()) is not None:
                said.append(self.given(event))
        return said

    def frames(self, words: list[str]) -> bytes:
        """What the manager would send."""
        kind, *rest = words
        if kind == "deliver":
            packed = b"".join(records.pack_notified(1, 1, 0, EVENT_BYTES, 0, self.sequence(e), False) for e in rest[1:])
            return b"".join(records.pack_delivered(int(rest[0]), 1, packed))
        if kind == "reply":
            return b"".join(records.pack_replied(records.REPLIED, int(rest[0]), msgpack.packb(eval(rest[1]))))
        if kind == "watcher":
            return b"".join(
                records.pack_replied(
                    records.REPLIED,
                    self.sequence(rest[0]),
                    msgpack.packb({"subscribers": [], "completers": [], "skippers": []}),
                )
            )
        if kind == "refuse":
            return b"".join(records.pack_replied(records.REFUSED, int(rest[0]), msgpack.packb(["UsageError", rest[1]])))
        if kind == "grant":
            segment, chunks = int(rest[0]), int(rest[1])
            is_backed = "--backed" in rest or "never" in rest
            return pack_client_event(SpanGranted(segment, 0, chunks * CHUNK_BYTES, is_backed))
        return pack_client_event(EVENTS[kind](*map(int, rest)))

    # --- what came of it ---

    def given(self, event: ClientEvent) -> str:
        if isinstance(event, Delivered):
            return f"event delivered to {event.subscriber}"
        if isinstance(event, Replied):
            return f"event {'refusal' if event.refused else 'reply'} of #{event.request}"
        if isinstance(event, SpanGranted):
            arena = self.protocol.orders.granted(event, ["listener", "shared"])
            size = f"{event.length // CHUNK_BYTES} chunks"
            return f"event span of {size} for {arena}" if event.segment else f"event no span of {size} for {arena}"
        if isinstance(event, TopicStale):
            return f"event stale: {self.protocol.forget_stale(event.topic)}, {event.dropped} dropped"
        values = [f"{field}={getattr(event, field)}" for field in event.FIELDS]
        return " ".join(["event", in_words(type(event)), *values])

    def said(self, message: Any) -> str:
        if isinstance(message, EventsNotified):
            names = " ".join(self.name(message.first + index) for index in range(len(message.topics)))
            return f"send notified {names}{' awaited' if message.awaited else ''}"
        if isinstance(message, DeliveriesSettled):
            ranges = " ".join(f"{self.name(first)}+{count}" for first, count in message.ranges)
            reason = f" reason={message.reason}" if message.reason else ""
            return f"send {Outcome(message.outcome).name.lower()} by {message.subscriber}: {ranges}{reason}"
        if isinstance(message, DeliveriesTaken):
            ranges = " ".join(f"{self.name(first)}+{count}" for first, count in message.ranges)
            return f"send taken by {message.subscriber}: {ranges}"
        if isinstance(message, SpanWanted):
            urgency = {**{number: name for name, number in URGENCIES.items()}, messages.SPAN_CANCELLED: "no more"}
            return f"send span of {message.length // CHUNK_BYTES} chunks wanted, {urgency[message.urgency]}"
        if isinstance(message, Request):
            named = [getattr(message, field) for field in list(message.FIELDS)[2:]]
            return f"send {type(message).__name__} #{message.request} {named}"
        if isinstance(message, SpanSealed):
            return f"send sealed {message.segment}+{message.offset}"
        return f"send {type(message).__name__} {self.name(message.sequence)}"
