"""The producer's side: encode, find room, write, notify. One encode, one copy, one pipe write an event.

The transport's lock is the publisher's as well: it keeps a process's events in one order and guards the arena. No
thread waits for memory while it holds the lock, so a process that is out of memory can still settle.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol
from zlib import crc32

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.loan_publisher import LoanPublisher
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.client.steps import Steps
from eventbus_mp.errors import EventBusError, UsageError
from eventbus_mp.events import ENVELOPE_FIELDS, NOT_READ, Event, EventShadow, shadow_at
from eventbus_mp.locking import reentered
from eventbus_mp.memory.arena import Arena, GrantedSpan
from eventbus_mp.memory.payload import detached, encode_event, let_go
from eventbus_mp.memory.written import EncodedEvent, write_payload
from eventbus_mp.protocol import records
from eventbus_mp.protocol.records import NOTIFIED, RECORD

__all__ = ["Around", "Publisher"]

pack_record = RECORD.pack
TTL = ENVELOPE_FIELDS.index("ttl")


class Around(Protocol):
    """What is to be written together with events that are published at once."""

    is_directed: bool
    """They go to whom this says: nobody has to be subscribed to their topics."""

    def begin(self, prepared: list[tuple[Event, EncodedEvent]]) -> None:
        """These are about to be published; nothing is if it raises."""

    def frame(self, shadows: list[EventShadow]) -> tuple[bytes, bytes]:
        """What goes before and behind the records of these, with the lock held; those without a place have none."""


class Publisher(LoanPublisher):
    """Args:
    connection: The link to send on.
    span_pool: Where the memory comes from.
    """

    def __init__(self, connection: Connection, span_pool: SpanPool) -> None:
        super().__init__(connection, span_pool)
        self._outgoing = connection.protocol.outgoing
        self.require = self.numbers.require
        self.report_dropped = self.numbers.report

    def notify(self, event: Event, *, awaited: bool = False, timeout_s: float | None = None) -> EventShadow:
        """Publish: the shadow, without a place when nobody is subscribed and nothing was stored."""
        # hot path: 3.4 us. The lock is written out (locking.py), and calls are few.
        lock, me = self._lock, threading.get_ident()
        if lock.owner == me:
            raise reentered()
        encoded = encode_event(event)
        length = encoded[4]
        if length > self.event_bytes_max:
            self._check_size(event, encoded)
        topic_name = event._topic
        topic = self._topics.get(topic_name) or self._connection.run(self.numbers.resolving(topic_name, timeout_s))
        if not topic:
            self.numbers.note_dropped(topic_name)
            return EventShadow(topic_name, event.id)
        span_pool = self.span_pool
        arena = span_pool.arena if span_pool.listener_arena is None else span_pool.choose()
        while True:
            with lock.raw:
                lock.owner = me
                try:
                    written = self._write(arena, encoded, topic, event, awaited)
                    if written is not None:
                        data, place, filled = written
                        self._transport.write(data)
                        break
                finally:
                    lock.owner = 0
            try:
                arena = span_pool.get(length, topic, timeout_s)
            except BaseException:
                let_go(event, encoded)
                raise
        if filled is not None:
            span_pool.order_ahead(filled.length, length)
        return shadow_at(topic_name, event._id if event._payload is None else event.id, place)

    def notifying(self, event: Event, awaited: bool, timeout_s: float | None = None) -> Steps[EventShadow]:
        """The steps of `notify`."""
        encoded = self.encode(event)
        name = event._topic
        topic = self._topics.get(name) or (yield from self.numbers.resolving(name, timeout_s))
        if not topic:
            self.numbers.note_dropped(name)
            return EventShadow(name, event.id)
        while True:
            shadow = self._write_now(event, encoded, topic, awaited)
            if shadow is not None:
                return shadow
            try:
                yield from self.span_pool.getting(encoded[4], topic, timeout_s)
            except BaseException:
                let_go(event, encoded)
                raise

    def notify_now(self, event: Event, awaited: bool) -> EventShadow | None:
        """Publish if nothing has to be waited for; None: there is no room, or the topic's number is not known."""
        topic = self._topics.get(event._topic) if isinstance(event, Event) else 0
        if not topic:
            return None
        encoded = encode_event(event)
        if encoded[4] > self.event_bytes_max:
            self._check_size(event, encoded)
        shadow = self._write_now(event, encoded, topic, awaited)
        if shadow is None:
            let_go(event, encoded)
        return shadow

    def _write_now(self, event: Event, encoded: EncodedEvent, topic: int, awaited: bool) -> EventShadow | None:
        """Write and notify an event if there is room. `notify` has this written out."""
        lock, me = self._lock, threading.get_ident()
        if lock.owner == me:
            raise reentered()
        with lock.raw:
            lock.owner = me
            try:
                written = self._write(self.span_pool.choose(), encoded, topic, event, awaited)
                if written is None:
                    return None
                data, place, filled = written
                self._transport.write(data)
            finally:
                lock.owner = 0
        if filled is not None:
            self.span_pool.order_ahead(filled.length, encoded[4])
        return shadow_at(event._topic, event.id, place)

    def notify_many(
        self, events: Iterable[Event], timeout_s: float | None = None, around: Around | None = None
    ) -> list[EventShadow]:
        """Publish in order, with one pipe write for as many as fit into the spans that are ready.

        An error says in `published` how far it came.
        """
        self._lock.refuse_reentry()
        return self._connection.run(self.notifying_many(events, timeout_s, around))

    def notifying_many(
        self, events: Iterable[Event], timeout_s: float | None = None, around: Around | None = None
    ) -> Steps[list[EventShadow]]:
        """The steps of `notify_many`."""
        return (yield from self._publishing(self._prepare(events), timeout_s, around))

    def _prepare(self, events: Iterable[Event]) -> list[tuple[Event, EncodedEvent]]:
        """The events with what they are encoded to. Those of a generator have buffers of their own."""
        if isinstance(events, (list, tuple)):
            return [(event, self.encode(event)) for event in events]
        try:
            given = iter(events)
        except TypeError:
            raise UsageError(f"notify_many({events!r:.80}): give a list of events") from None
        return [(event, detached(self.encode(event))) for event in given]

    def _publishing(
        self,
        prepared: list[tuple[Event, EncodedEvent]],
        timeout_s: float | None = None,
        around: Around | None = None,
    ) -> Steps[list[EventShadow]]:
        """Publish encoded events in their order; those of topics that nobody is subscribed to are dropped."""
        if around is not None:
            around.begin(prepared)
        topics: dict[str, int] = {}
        is_directed = around is not None and around.is_directed
        numbers = self.numbers
        for name in {event._topic for event, _ in prepared}:
            if (number := self._topics.get(name)) is None:
                number = yield from (numbers.numbering(name) if is_directed else numbers.resolving(name, timeout_s))
            topics[name] = number
        if not all(topics.values()):
            for event, _ in prepared:
                if not topics[event._topic]:
                    self.numbers.note_dropped(event._topic)
        if is_directed or not self._protocol.allowed:
            return (yield from self._notify_all(prepared, topics, timeout_s, around))
        return (yield from self._notify_parts(prepared, topics, timeout_s, around))

    def _notify_parts(
        self,
        prepared: list[tuple[Event, EncodedEvent]],
        topics: dict[str, int],
        timeout_s: float | None,
        around: Around | None,
    ) -> Steps[list[EventShadow]]:
        """As `_notify_all`, but of topics of which a subscriber has a bound so many at a time as it has room for."""
        shadows: list[EventShadow] = []
        resolved = set(topics)
        """Names whose next event is counted already."""
        try:
            while len(shadows) < len(prepared):
                stop = self._end_of_part(prepared, len(shadows), resolved)
                part = prepared[len(shadows) : stop]
                if part:
                    shadows += yield from self._notify_all(part, topics, timeout_s, around)
                else:
                    name = prepared[stop][0]._topic
                    topics[name] = yield from self.numbers.resolving(name, timeout_s)
                    resolved.add(name)
        except BaseException as error:
            if isinstance(error, EventBusError):
                error.published = (*shadows, *error.published)
            for event, encoded in prepared[len(shadows) :]:
                let_go(event, encoded)
            raise
        return shadows

    def _end_of_part(self, prepared: list[tuple[Event, EncodedEvent]], start: int, resolved: set[str]) -> int:
        """The index of the first event from `start` on whose topic is to be resolved first."""
        for index in range(start, len(prepared)):
            name = prepared[index][0]._topic
            if name in resolved:
                resolved.discard(name)
            elif name in self._protocol.allowed and not self.numbers.may_send(name):
                return index
        return len(prepared)

    def _notify_all(
        self,
        prepared: list[tuple[Event, EncodedEvent]],
        topics: dict[str, int],
        timeout_s: float | None,
        around: Around | None,
    ) -> Steps[list[EventShadow]]:
        """Publish those that somebody is subscribed to; the shadows of all."""
        shadows: list[EventShadow] = []
        arena = self.span_pool.choose()
        while len(shadows) < len(prepared):
            with self._lock.held():
                filled = self._write_many(arena, prepared, topics, shadows, around)
            if filled is not None:
                self.span_pool.order_ahead(*filled)
            if len(shadows) < len(prepared):
                try:
                    event, encoded = prepared[len(shadows)]
                    arena = yield from self.span_pool.getting(encoded[4], topics[event._topic], timeout_s)
                except BaseException as error:
                    if isinstance(error, EventBusError):
                        error.published = tuple(shadows)
                    for event, encoded in prepared:
                        let_go(event, encoded)
                    raise
        return shadows

    def _write_many(
        self,
        arena: Arena,
        prepared: list[tuple[Event, EncodedEvent]],
        topics: dict[str, int],
        shadows: list[EventShadow],
        around: Around | None,
    ) -> tuple[int, int] | None:
        """Write and notify as many as there is room for: (length of the last span that was filled, by how much).

        Each one that is written gets its shadow, and is notified even if the next one fails.
        """
        parts: list[bytes] = []
        last = None
        start = len(shadows)
        try:
            for event, encoded in prepared[start:]:
                topic = topics[event._topic]
                if not topic:
                    shadows.append(EventShadow(event._topic, event.id))
                    continue
                written = self._write(arena, encoded, topic, event, awaited=False)
                if written is None:
                    break
                data, place, filled = written
                parts.append(data)
                if filled is not None:
                    last = filled.length, encoded[4]
                shadows.append(shadow_at(event._topic, event.id, place))
        finally:
            if around is not None and len(shadows) > start:
                before, behind = around.frame(shadows[start:])
                parts = [before, *parts, behind]
            if parts:
                self._transport.write(b"".join(parts))
        return last

    def retire_spans(self) -> None:
        """Give back all memory that this process may still write: the next event waits for some."""
        self._connection.call(self.span_pool.retire)

    def forget_topic(self, name: str) -> None:
        """Ask the manager again at the next event of this topic."""
        self._protocol.forget_topic(name)

    def encode(self, event: Event) -> EncodedEvent:
        """The event as it is written.

        Raises:
            EncodeError: Its data cannot travel.
            EventTooLarge: It is larger than `event_bytes_max`.
        """
        encoded = encode_event(event)
        self._check_size(event, encoded)
        return encoded

    def _write(
        self, arena: Arena, encoded: EncodedEvent, topic: int, event: Event, awaited: bool
    ) -> tuple[bytes, tuple[int, int, int, int, int], GrantedSpan | None] | None:
        """Put the event into shared memory: (records, place, the span that was filled); None: no room."""
        # hot path: 1.2 us. What fits into the span in use is placed, and a plain record is packed, without a call.
        # ClientProtocol.notify is the long way to the same bytes; tests/client/test_publisher.py compares the two.
        length = encoded[4]
        offset = arena.position
        if length <= arena.large_bytes and offset + length <= arena.end:
            arena.position = offset + length
            view, segment_number, filled = arena.view, arena.segment, None
        else:
            slot = arena.reserve(length)
            if slot is None:
                return None
            view, segment_number, offset, filled = slot
        try:
            # Payload first, record second: the record is the only permission to read the payload.
            protocol = self._protocol
            protocol.sequence = sequence = protocol.sequence + 1
            write_payload(view, offset, encoded, sequence)
            crc = crc32(encoded[0])
            envelope = event._envelope
            ttl = None if envelope is None else event.ttl if envelope is NOT_READ else envelope[TTL]
            if ttl is not None or awaited or self._outgoing:
                due_ns = 0 if ttl is None else self.deadline_ns(event)
                protocol.notify(topic, segment_number, offset, length, deadline_ns=due_ns, awaited=awaited, id_crc=crc)
                data = protocol.data_to_send()
            else:
                data = pack_record(NOTIFIED, topic, segment_number, offset, length, crc, 0, sequence)
        except BaseException:  # A signal handler, most likely while a large payload was copied.
            if filled is not None:
                self._protocol.seal(filled.segment, filled.offset)
            raise
        if filled is not None:
            data += records.pack_span_sealed(filled.segment, filled.offset)
        return data, (topic, segment_number, offset, length, sequence), filled
