"""The producer's side: encode, find room, write, notify. One encode, one copy, one pipe write an event.

Two locks, on purpose: `_order` keeps a process's events in one order and guards the arena; the connection's write lock
only covers a write. Nobody waits for memory while holding either, so a process that is out of memory can still settle.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.supply import Supply
from eventbus_mp.config import TIME_UNITS_NS, BusConfig
from eventbus_mp.errors import EventTooLarge, UnknownTopic
from eventbus_mp.memory.arena import Arena, LentSpan
from eventbus_mp.memory.payload import EncodedEvent, encode_event, new_tuple, write_loaned, write_payload
from eventbus_mp.messages import (
    SEQUENCE_LINK_SHIFT,
    ResolveTopic,
)
from eventbus_mp.model import Event, EventShadow, Place, check_topic
from eventbus_mp.wire import records
from eventbus_mp.wire.stream import TopicStale

__all__ = ["Borrowed", "Publisher"]

log = logging.getLogger("eventbus_mp")

WARNING_INTERVAL_S = 60.0
"""An event without a subscriber is warned of this often, a topic."""


class Borrowed(NamedTuple):
    """A span with nothing in it, for one event of `topic`."""

    topic: int
    view: memoryview
    span: LentSpan


class Publisher:
    """Args:
    connection: The link to send on.
    supply: Where the memory comes from.
    """

    def __init__(self, connection: Connection, supply: Supply) -> None:
        self._connection = connection
        self._config: BusConfig = connection.config
        self._supply = supply
        self._unit_ns = TIME_UNITS_NS[self._config.time_unit]
        self._sequence = connection.welcome.link << SEQUENCE_LINK_SHIFT
        self._order = threading.Lock()
        self._topics: dict[str, int] = {}
        """Numbers of topics that had a subscriber when we asked. Never says no: only the manager may say that."""
        self._warned: dict[str, float] = {}
        self._lent_out: set[LentSpan] = set()
        """Spans that loans fill."""
        connection.on_topic_stale = self._on_topic_stale

    def notify(self, event: Event, *, awaited: bool = False) -> tuple[EventShadow, int | None]:
        """Publish: (shadow, sequence), the sequence None when nobody is subscribed and nothing was stored."""
        encoded = self._encode(event)
        topic_name = event.topic
        topic = self._topics.get(topic_name) or self._resolve(topic_name)
        if not topic:
            return EventShadow(topic_name, event.id), None
        supply = self._supply
        arena = supply.arena if supply.listener_arena is None else supply.choose()
        while True:
            with self._order:
                written = self._write(arena, encoded, topic, event, awaited)
                if written is not None:
                    data, place, filled = written
                    self._connection.send(data)
                    break
            arena = supply.get(encoded.length)
        if filled is not None:
            supply.order_ahead(filled.length, encoded.length)
        return EventShadow(topic_name, event.id, place), place[4]

    def notify_many(self, events: Iterable[Event]) -> list[EventShadow]:
        """Publish in order, with one pipe write for as many as fit into the spans at hand."""
        if isinstance(events, (list, tuple)):
            prepared = [(event, self._encode(event)) for event in events]
        else:
            prepared = [(event, _detached(self._encode(event))) for event in events]
        topics = {
            name: self._topics.get(name) or self._resolve(name) for name in {event.topic for event, _ in prepared}
        }
        shadows: list[EventShadow] = []
        position = 0
        arena = self._supply.choose()
        while position < len(prepared):
            with self._order:
                parts, filled, filled_by = [], None, 0
                while position < len(prepared):
                    event, encoded = prepared[position]
                    topic = topics[event.topic]
                    if not topic:
                        shadows.append(EventShadow(event.topic, event.id))
                        position += 1
                        continue
                    written = self._write(arena, encoded, topic, event, awaited=False)
                    if written is None:
                        break
                    parts.append(written[0])
                    if written[2] is not None:
                        filled, filled_by = written[2], encoded.length
                    shadows.append(EventShadow(event.topic, event.id, written[1]))
                    position += 1
                if parts:
                    self._connection.send(b"".join(parts))
            if filled is not None:
                self._supply.order_ahead(filled.length, filled_by)
            if position < len(prepared):
                arena = self._supply.get(prepared[position][1].length)
        return shadows

    def begin_anew(self) -> list[list[int]]:
        """Another manager goes on: [segment, offset] of the spans that are ours. What was ordered is ordered again."""
        with self._order:
            self._topics.clear()
            lent_out = [[span.segment, span.offset] for span in self._lent_out]
            return lent_out + self._supply.begin_anew()

    # --- loans ---

    def borrow(self, event: Event, encoded: EncodedEvent) -> Borrowed | None:
        """A span of its own for an event that will be filled in place; None when nobody is subscribed.

        No lock is held until it is published or given back, and its place among the events is that of its publishing.
        """
        self._check_size(event, encoded)
        topic = self._topics.get(event.topic) or self._resolve(event.topic)
        if not topic:
            return None
        arena = self._supply.choose()
        length = max(encoded.length, arena.large_bytes + 1)
        while True:
            with self._order:
                room = arena.reserve(length)
                if room is not None:
                    assert room.filled is not None
                    self._lent_out.add(room.filled)
                    return Borrowed(topic, room.view, room.filled)
            arena = self._supply.get(length)

    def publish_borrowed(self, borrowed: Borrowed, event: Event, encoded: EncodedEvent) -> EventShadow:
        """Publish what was filled in place."""
        topic, view, span = borrowed
        deadline_ns = 0 if event.ttl is None else self._deadline_ns(event)
        with self._order:
            self._lent_out.discard(span)
            self._sequence = sequence = self._sequence + 1
            write_loaned(view, span.offset, encoded, topic, sequence)
            record = records.notified(
                topic, span.segment, span.offset, encoded.length, deadline_ns, sequence, awaited=False
            )
            self._connection.send(record + records.span_sealed(span.segment, span.offset))
        self._supply.order_ahead(span.length, max(encoded.length, self._supply.arena.large_bytes + 1))
        place = Place(topic, span.segment, span.offset, encoded.length, sequence)
        return EventShadow(event.topic, event.id, place)

    def return_borrowed(self, borrowed: Borrowed) -> None:
        """Give the memory back; nothing is published."""
        span = borrowed.span
        with self._order:
            self._lent_out.discard(span)
            self._connection.send(records.span_sealed(span.segment, span.offset))

    def close(self) -> None:
        """Let go of the memory; the manager takes the spans back when the link ends."""
        with self._order:
            self._supply.close()

    def forget_topic(self, name: str) -> None:
        """Ask the manager again at the next event of this topic."""
        self._topics.pop(name, None)

    def _encode(self, event: Event) -> EncodedEvent:
        encoded = encode_event(event)
        self._check_size(event, encoded)
        return encoded

    def _check_size(self, event: Event, encoded: EncodedEvent) -> None:
        if encoded.length > self._config.event_bytes_max:
            raise EventTooLarge(
                f"event {event.id!r} of topic {event.topic!r} has {encoded.length} bytes encoded; "
                f"BusConfig.event_bytes_max allows {self._config.event_bytes_max}"
            )

    def _write(
        self, arena: Arena, encoded: EncodedEvent, topic: int, event: Event, awaited: bool
    ) -> tuple[bytes, Place, LentSpan | None] | None:
        """Put the event into shared memory: (records, place, the span that was filled); None: no room."""
        room = arena.reserve(encoded.length)
        if room is None:
            return None
        # Payload first, record second: the record is the only permission to read the payload.
        self._sequence = sequence = self._sequence + 1
        if awaited:
            self._connection.expect_reply(sequence)
        write_payload(room.view, room.offset, encoded, topic, sequence)
        deadline_ns = 0 if event.ttl is None else self._deadline_ns(event)
        data = records.notified(topic, room.segment, room.offset, encoded.length, deadline_ns, sequence, awaited)
        if room.filled is not None:
            data += records.span_sealed(room.filled.segment, room.filled.offset)
        place = new_tuple(Place, (topic, room.segment, room.offset, encoded.length, sequence))
        return data, place, room.filled

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


def _detached(encoded: EncodedEvent) -> EncodedEvent:
    """With buffers of its own: what a generator gave may be filled anew for its next event."""
    if not encoded.buffers:
        return encoded
    return encoded._replace(buffers=tuple(memoryview(bytes(buffer)) for buffer in encoded.buffers))
