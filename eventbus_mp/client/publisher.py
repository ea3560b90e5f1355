"""The producer's side: encode, find room, write, notify. One encode, one copy, one pipe write an event.

The connection's write lock is the publisher's, too: it keeps a process's events in one order and guards the arena.
Nobody waits for memory while holding it, so a process that is out of memory can still settle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.span_pool import LOANS_AHEAD, SpanPool
from eventbus_mp.config import TIME_UNITS_NS, BusConfig
from eventbus_mp.errors import EventTooLarge, UnknownTopic
from eventbus_mp.events import Event, EventShadow, Place, check_topic
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT
from eventbus_mp.memory.arena import Arena, GrantedSpan
from eventbus_mp.memory.payload import EncodedEvent, encode_event, new_object, write_loaned, write_payload
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.records import NOTIFIED, RECORD
from eventbus_mp.protocol.requests import ResolveTopic

__all__ = ["LoanedSpan", "Publisher"]

pack_record = RECORD.pack
log = logging.getLogger("eventbus_mp")

WARNING_INTERVAL_S = 60.0
"""An event without a subscriber is warned of this often, a topic."""


class LoanedSpan(NamedTuple):
    """A span with nothing in it, for one event of `topic`."""

    topic: int
    view: memoryview
    span: GrantedSpan


class Publisher:
    """Args:
    connection: The link to send on.
    supply: Where the memory comes from.
    """

    def __init__(self, connection: Connection, span_pool: SpanPool) -> None:
        self._connection = connection
        self._config: BusConfig = connection.config
        self._span_pool = span_pool
        self._unit_ns = TIME_UNITS_NS[self._config.time_unit]
        self._sequence = connection.welcome.link << SEQUENCE_LINK_SHIFT
        self._write_lock = connection.write_lock
        self._is_within: Callable[[], bool] = self._write_lock._is_owned  # type: ignore[attr-defined]
        self._event_bytes_max = self._config.event_bytes_max
        self._topics: dict[str, int] = {}
        """Numbers of topics that had a subscriber when we asked. Never says no: only the manager may say that."""
        self._warned: dict[str, float] = {}
        self._loaned_out: set[GrantedSpan] = set()
        """Spans that loans fill."""
        connection.on_topic_stale = self._on_topic_stale

    def notify(self, event: Event, *, awaited: bool = False) -> EventShadow:
        """Publish: the shadow, without a place when nobody is subscribed and nothing was stored."""
        if self._is_within():  # written out: a call that asks takes twice as long
            self._connection.refuse_reentry()
        encoded = encode_event(event)
        length = encoded[4]
        if length > self._event_bytes_max:
            self._check_size(event, encoded)
        topic_name = event.topic
        topic = self._topics.get(topic_name) or self._resolve(topic_name)
        if not topic:
            return EventShadow(topic_name, event.id)
        span_pool = self._span_pool
        arena = span_pool.arena if span_pool.listener_arena is None else span_pool.choose()
        while True:
            with self._write_lock:
                written = self._write(arena, encoded, topic, event, awaited)
                if written is not None:
                    data, place, filled = written
                    self._connection.send_locked(data)
                    break
            arena = span_pool.get(length)
        if filled is not None:
            span_pool.order_ahead(filled.length, length)
        return shadow_at(topic_name, event.id, place)

    def notify_many(self, events: Iterable[Event]) -> list[EventShadow]:
        """Publish in order, with one pipe write for as many as fit into the spans at hand."""
        self._connection.refuse_reentry()
        if isinstance(events, (list, tuple)):
            prepared = [(event, self._encode(event)) for event in events]
        else:
            prepared = [(event, _detached(self._encode(event))) for event in events]
        names = {event.topic for event, _ in prepared}
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
            with self._write_lock:
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

        Each one that is written gets its shadow, and is notified also when the next one fails.
        """
        parts: list[bytes] = []
        last = None
        try:
            for event, encoded in prepared[len(shadows) :]:
                written = self._write(arena, encoded, topics[event.topic], event, awaited=False)
                if written is None:
                    break
                data, place, filled = written
                parts.append(data)
                if filled is not None:
                    last = filled.length, encoded[4]
                shadows.append(shadow_at(event.topic, event.id, place))
        finally:
            if parts:
                self._connection.send_locked(b"".join(parts))
        return last

    def resync(self) -> list[list[int]]:
        """Another manager goes on: [segment, offset] of the spans that are ours. What was ordered is ordered again."""
        self._topics.clear()
        return self._span_pool.resync(self._write_lock, self._loaned_out)

    # --- loans ---

    def loan_span(self, event: Event, encoded: EncodedEvent) -> LoanedSpan | None:
        """A span of its own for an event that will be filled in place; None when nobody is subscribed.

        No lock is held until it is published or given back, and its place among the events is that of its publishing.
        """
        self._connection.refuse_reentry()
        self._check_size(event, encoded)
        topic = self._topics.get(event.topic) or self._resolve(event.topic)
        if not topic:
            return None
        arena = self._span_pool.choose()
        length = max(encoded[4], arena.large_bytes + 1)
        while True:
            with self._write_lock:
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
        with self._write_lock:
            self._loaned_out.discard(span)
            self._sequence = sequence = self._sequence + 1
            write_loaned(view, span.offset, encoded, sequence)
            record = records.pack_notified(
                topic, span.segment, span.offset, encoded[4], deadline_ns, sequence, awaited=False
            )
            self._connection.send_locked(record + records.pack_span_sealed(span.segment, span.offset))
        counted = max(encoded[4], self._span_pool.arena.large_bytes + 1)
        self._span_pool.order_ahead(span.length, counted, LOANS_AHEAD)
        place = Place(topic, span.segment, span.offset, encoded[4], sequence)
        return EventShadow(event.topic, event.id, place)

    def refuse_reentry(self) -> None:
        """Raise `UsageError` in the middle of this thread's own writing."""
        self._connection.refuse_reentry()

    def return_loaned(self, loaned: LoanedSpan) -> None:
        """Give the memory back; nothing is published."""
        span = loaned.span
        with self._write_lock:
            self._loaned_out.discard(span)
            self._connection.send_locked(records.pack_span_sealed(span.segment, span.offset))

    def close(self) -> None:
        """Let go of the memory; the manager takes the spans back when the link ends."""
        with self._write_lock:
            self._span_pool.close()

    def abandon(self) -> None:
        """`close`, in a forked child: whoever had the lock does not exist there."""
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
        self._sequence = sequence = self._sequence + 1
        write_payload(view, offset, encoded, sequence)
        if awaited or event._envelope is not None:
            if awaited:
                self._connection.expect_reply(sequence)
            deadline_ns = 0 if event.ttl is None else self._deadline_ns(event)
            data = records.pack_notified(topic, segment_number, offset, length, deadline_ns, sequence, awaited)
        else:
            data = pack_record(NOTIFIED, topic, segment_number, offset, length, 0, 0, sequence)
        if filled is not None:
            data += records.pack_span_sealed(filled.segment, filled.offset)
        return data, (topic, segment_number, offset, length, sequence), filled

    def _deadline_ns(self, event: Event) -> int:
        """`occurred_at + ttl` on the monotonic clock, which is one for the whole machine and never jumps."""
        assert event.occurred_at is not None
        assert event.ttl is not None
        left_ns = (event.occurred_at + event.ttl) * self._unit_ns - time.time_ns()
        return min(max(1, time.monotonic_ns() + left_ns), (1 << 63) - 1)

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
        now = time.monotonic()
        if now - self._warned.get(name, -WARNING_INTERVAL_S) >= WARNING_INTERVAL_S:
            self._warned[name] = now
            log.warning("topic %r %s; its events are dropped (bus %r)", name, what, self._connection.bus)

    def _on_topic_stale(self, message: TopicStale) -> None:
        for name in [name for name, number in self._topics.items() if number == message.topic]:
            del self._topics[name]
            if message.dropped:
                self._warn_unheard(name, "lost its last subscriber, or was unregistered")


def shadow_at(topic: str, event_id: str, at: tuple[int, int, int, int, int]) -> EventShadow:
    """An `EventShadow`, in half the time that calling its class takes."""
    shadow = new_object(EventShadow)
    shadow.topic = topic
    shadow.id = event_id
    shadow._at = at
    return shadow


def _detached(encoded: EncodedEvent) -> EncodedEvent:
    """With buffers of its own: what a generator gave may be filled anew for its next event."""
    name, envelope, data, buffers, length = encoded
    return name, envelope, data, tuple(memoryview(bytes(buffer)) for buffer in buffers), length
