"""The producer's side: encode, find room, write, notify. One encode, one copy, one pipe write an event.

The transport's lock is the publisher's as well: it keeps a process's events in one order and guards the arena. No
thread waits for memory while it holds the lock, so a process that is out of memory can still settle.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from threading import get_ident
from typing import NamedTuple

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.span_orders import LOANS_AHEAD
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.config import TIME_UNITS_NS, BusConfig
from eventbus_mp.errors import EventTooLarge, UnknownTopic
from eventbus_mp.events import Event, EventShadow, Place, check_topic, new_object
from eventbus_mp.locking import reentered
from eventbus_mp.memory.arena import Arena, GrantedSpan
from eventbus_mp.memory.payload import EncodedEvent, encode_event, write_loaned, write_payload
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.records import NOTIFIED, RECORD
from eventbus_mp.protocol.requests import ResolveTopic

__all__ = ["LoanedSpan", "Publisher", "shadow_at"]

pack_record = RECORD.pack
log = logging.getLogger("eventbus_mp")

WARNING_INTERVAL_NS = 60 * 10**9
"""A topic without a subscriber is warned of this often."""


class LoanedSpan(NamedTuple):
    """A span with nothing in it, for one event of `topic`."""

    topic: int
    view: memoryview
    span: GrantedSpan


class Publisher:
    """Args:
    connection: The link to send on.
    span_pool: Where the memory comes from.
    """

    def __init__(self, connection: Connection, span_pool: SpanPool) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._transport = connection.transport
        self._lock = connection.transport.lock
        self._outgoing = connection.protocol.outgoing
        self._topics = connection.protocol.topics
        self._config: BusConfig = connection.config
        self._span_pool = span_pool
        self._unit_ns = TIME_UNITS_NS[self._config.time_unit]
        self._event_bytes_max = self._config.event_bytes_max
        self._warned_ns: dict[str, int] = {}
        """Topic -> when its lack of a subscriber was last warned of."""
        self._loaned_out: set[GrantedSpan] = set()
        """Spans that loans fill."""
        connection.on_topic_stale = self._on_topic_stale

    def notify(self, event: Event, *, awaited: bool = False) -> EventShadow:
        """Publish: the shadow, without a place when nobody is subscribed and nothing was stored."""
        # hot path: 3.4 us. The lock is written out (locking.py), and calls are few.
        lock, me = self._lock, get_ident()
        if lock.owner == me:
            raise reentered()
        encoded = encode_event(event)
        length = encoded[4]
        if length > self._event_bytes_max:
            self._check_size(event, encoded)
        topic_name = event._topic
        topic = self._topics.get(topic_name) or self._resolve(topic_name)
        if not topic:
            return EventShadow(topic_name, event.id)
        span_pool = self._span_pool
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
            arena = span_pool.get(length)
        if filled is not None:
            span_pool.order_ahead(filled.length, length)
        return shadow_at(topic_name, event.id, place)

    def notify_many(self, events: Iterable[Event]) -> list[EventShadow]:
        """Publish in order, with one pipe write for as many as fit into the spans that are ready."""
        self._lock.refuse_reentry()
        if isinstance(events, (list, tuple)):
            prepared = [(event, self._encode(event)) for event in events]
        else:
            prepared = [(event, _detached(self._encode(event))) for event in events]
        names = {event._topic for event, _ in prepared}
        topics = {name: self._topics.get(name) or self._resolve(name) for name in names}
        unheard = [EventShadow(event.topic, event.id) for event, _ in prepared] if not all(topics.values()) else []
        if unheard:
            heard = [index for index, (event, _) in enumerate(prepared) if topics[event.topic]]
            for index, shadow in zip(heard, self._notify_all([prepared[at] for at in heard], topics), strict=True):
                unheard[index] = shadow
            return unheard
        return self._notify_all(prepared, topics)

    def _notify_all(self, prepared: list[tuple[Event, EncodedEvent]], topics: dict[str, int]) -> list[EventShadow]:
        """Publish events that somebody is subscribed to."""
        shadows: list[EventShadow] = []
        arena = self._span_pool.choose()
        while len(shadows) < len(prepared):
            with self._lock.held():
                filled = self._write_many(arena, prepared, topics, shadows)
            if filled is not None:
                self._span_pool.order_ahead(*filled)
            if len(shadows) < len(prepared):
                arena = self._span_pool.get(prepared[len(shadows)][1][4])
        return shadows

    def _write_many(
        self,
        arena: Arena,
        prepared: list[tuple[Event, EncodedEvent]],
        topics: dict[str, int],
        shadows: list[EventShadow],
    ) -> tuple[int, int] | None:
        """Write and notify as many as there is room for: (length of the last span that was filled, by how much).

        Each one that is written gets its shadow, and is notified even if the next one fails.
        """
        parts: list[bytes] = []
        last = None
        try:
            for event, encoded in prepared[len(shadows) :]:
                written = self._write(arena, encoded, topics[event._topic], event, awaited=False)
                if written is None:
                    break
                data, place, filled = written
                parts.append(data)
                if filled is not None:
                    last = filled.length, encoded[4]
                shadows.append(shadow_at(event._topic, event.id, place))
        finally:
            if parts:
                self._transport.write(b"".join(parts))
        return last

    def places(self) -> list[tuple[int, int]]:
        """(segment, offset) of every span that this process may write, loans included; with the lock held."""
        return [(span.segment, span.offset) for span in self._loaned_out] + self._span_pool.places()

    # --- loans ---

    def loan_span(self, event: Event, encoded: EncodedEvent) -> LoanedSpan | None:
        """A span of its own for an event that will be filled in place; None when nobody is subscribed.

        No lock is held until it is published or given back, and its place among the events is that of its publishing.
        """
        self._lock.refuse_reentry()
        self._check_size(event, encoded)
        topic = self._topics.get(event.topic) or self._resolve(event.topic)
        if not topic:
            return None
        arena = self._span_pool.choose()
        length = max(encoded[4], arena.large_bytes + 1)
        while True:
            with self._lock.held():
                slot = arena.reserve(length)
                if slot is not None:
                    assert slot.filled is not None
                    self._loaned_out.add(slot.filled)
                    return LoanedSpan(topic, slot.view, slot.filled)
            arena = self._span_pool.get(length)

    def publish_loaned(self, loaned: LoanedSpan, event: Event, encoded: EncodedEvent) -> EventShadow:
        """Publish what was filled in place."""
        topic, view, span = loaned
        deadline_ns = 0 if event.ttl is None else self._deadline_ns(event)
        with self._lock.held():
            self._loaned_out.discard(span)
            sequence = self._protocol.next_sequence()
            write_loaned(view, span.offset, encoded, sequence)
            self._protocol.notify(topic, span.segment, span.offset, encoded[4], deadline_ns=deadline_ns)
            self._protocol.seal(span.segment, span.offset)
            self._connection.flush_locked()
        counted = max(encoded[4], self._span_pool.arena.large_bytes + 1)
        self._span_pool.order_ahead(span.length, counted, LOANS_AHEAD)
        place = Place(topic, span.segment, span.offset, encoded[4], sequence)
        return EventShadow(event.topic, event.id, place)

    def refuse_reentry(self) -> None:
        """Raise `UsageError` in the middle of this thread's own writing."""
        self._lock.refuse_reentry()

    def return_loaned(self, loaned: LoanedSpan) -> None:
        """Give the memory back; nothing is published."""
        span = loaned.span
        with self._lock.held():
            self._loaned_out.discard(span)
            self._protocol.seal(span.segment, span.offset)
            self._connection.flush_locked()

    def close(self) -> None:
        """Let go of the memory; the manager takes the spans back when the link ends."""
        with self._lock.held():
            self._span_pool.close()

    def forget_topic(self, name: str) -> None:
        """Ask the manager again at the next event of this topic."""
        self._topics.pop(name, None)

    def _encode(self, event: Event) -> EncodedEvent:
        encoded = encode_event(event)
        self._check_size(event, encoded)
        return encoded

    def _check_size(self, event: Event, encoded: EncodedEvent) -> None:
        if encoded[4] > self._config.event_bytes_max:
            raise EventTooLarge(
                f"event {event.id!r} of topic {event.topic!r} has {encoded[4]} bytes encoded; "
                f"BusConfig.event_bytes_max allows {self._config.event_bytes_max}"
            )

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
        # Payload first, record second: the record is the only permission to read the payload.
        protocol = self._protocol
        protocol.sequence = sequence = protocol.sequence + 1
        write_payload(view, offset, encoded, sequence)
        if awaited or event._envelope is not None or self._outgoing:
            deadline_ns = 0 if event.ttl is None else self._deadline_ns(event)
            protocol.notify(topic, segment_number, offset, length, deadline_ns=deadline_ns, awaited=awaited)
            data = protocol.data_to_send()
        else:
            data = pack_record(NOTIFIED, topic, segment_number, offset, length, 0, 0, sequence)
        if filled is not None:
            data += records.pack_span_sealed(filled.segment, filled.offset)
        return data, (topic, segment_number, offset, length, sequence), filled

    def _deadline_ns(self, event: Event) -> int:
        """`occurred_at + ttl` on the monotonic clock, which is one for the whole machine and never jumps."""
        assert event.occurred_at is not None
        assert event.ttl is not None
        left_ns = (event.occurred_at + event.ttl) * self._unit_ns - self._transport.time_ns()
        return min(max(1, self._transport.monotonic_ns() + left_ns), (1 << 63) - 1)

    # --- topics ---

    def _resolve(self, name: str) -> int:
        """The topic's number, or 0 when there is nobody to tell, which is warned of."""
        check_topic(name)
        number, subscribed = self._connection.request(ResolveTopic, name)
        if not number and self._config.strict:
            raise UnknownTopic(f"topic {name!r} is not registered; call register_topic({name!r}) first")
        if subscribed:
            self._topics[name] = number
            return int(number)
        self._warn_unheard(name, "has no subscriber" if number else "doesn't exist")
        return 0

    def _warn_unheard(self, name: str, what: str) -> None:
        now_ns = self._transport.monotonic_ns()
        warned_ns = self._warned_ns.get(name)
        if warned_ns is None or now_ns - warned_ns >= WARNING_INTERVAL_NS:
            self._warned_ns[name] = now_ns
            log.warning("topic %r %s; its events are dropped (bus %r)", name, what, self._connection.bus)

    def _on_topic_stale(self, event: TopicStale) -> None:
        for name in self._protocol.forget_stale(event.topic):
            if event.dropped:
                self._warn_unheard(name, "lost its last subscriber, or was unregistered")


def shadow_at(topic: str, event_id: str, at: tuple[int, int, int, int, int]) -> EventShadow:
    """An `EventShadow`, in half the time that calling its class takes."""
    shadow = new_object(EventShadow)
    shadow._topic = topic
    shadow._id = event_id
    shadow._at = at
    return shadow


def _detached(encoded: EncodedEvent) -> EncodedEvent:
    """With buffers of its own: what a generator gave may be filled anew for its next event."""
    name, envelope, data, buffers, length = encoded
    return name, envelope, data, tuple(memoryview(bytes(buffer)) for buffer in buffers), length
