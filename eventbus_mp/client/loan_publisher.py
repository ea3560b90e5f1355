"""Loans: memory of their own that events are built in. And what is needed to publish in any way."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple, TypeAlias
from zlib import crc32

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.span_orders import LOANS_AHEAD
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.client.steps import Steps
from eventbus_mp.client.topic_numbers import TopicNumbers
from eventbus_mp.config import TIME_UNITS_NS
from eventbus_mp.errors import DecodeError, EventTooLarge, UsageError
from eventbus_mp.events import Event, EventShadow, Place
from eventbus_mp.ids import EventId
from eventbus_mp.memory.arena import Arena, GrantedSpan
from eventbus_mp.memory.page_copies import Shown
from eventbus_mp.memory.payload import id_crc, let_go, read_event
from eventbus_mp.memory.raw import sequence_in, set_sequence, why_no_payload
from eventbus_mp.memory.written import EncodedEvent, write_loaned

__all__ = ["LoanPublisher", "LoanedSpan"]

Frame: TypeAlias = Callable[[list[EventShadow]], tuple[bytes, bytes]]
"""`publisher.Around.frame`."""


class LoanedSpan(NamedTuple):
    """A span with nothing in it, for one event of `topic`."""

    topic: int
    view: memoryview
    span: GrantedSpan


class LoanPublisher:
    """Args:
    connection: The link to send on.
    span_pool: Where the memory comes from.
    """

    def __init__(self, connection: Connection, span_pool: SpanPool) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._transport = connection.transport
        self._lock = connection.transport.lock
        self._topics = connection.protocol.topics
        self.span_pool = span_pool
        self._unit_ns = TIME_UNITS_NS[connection.config.time_unit]
        self.event_bytes_max = connection.config.event_bytes_max
        self.numbers = TopicNumbers(connection, span_pool.before_waiting)
        self._loaned_out: dict[GrantedSpan, memoryview] = {}
        """Spans that loans fill, and their segments."""

    def before_loan(self, event: Event, encoded: EncodedEvent) -> tuple[Event, EncodedEvent]:
        """A loan's block begins: the event to publish at its end. `InstrumentedPublisher` has hooks here."""
        return event, encoded

    def after_loan(self, event: Event, shadow: EventShadow | None, error: BaseException | None) -> None:
        """A loan's block has ended, with a shadow or with an error. `InstrumentedPublisher` has hooks here."""

    def loaning(self, event: Event, encoded: EncodedEvent) -> Steps[LoanedSpan | None]:
        """The steps that get a span of its own for an event that will be filled in place; None: nobody is subscribed.

        No lock is held until it is published or given back, and its place among the events is that of its publishing.
        """
        self._lock.refuse_reentry()
        self._check_size(event, encoded)
        return (yield from self._loaning(event.topic, encoded[4], self.numbers.resolving))

    def _loaning(self, name: str, length: int, resolving: Callable[[str], Steps[int]]) -> Steps[LoanedSpan | None]:
        topic = self._topics.get(name) or (yield from resolving(name))
        if not topic:
            self.numbers.note_dropped(name)
            return None
        arena = self.span_pool.choose()
        length = max(length, arena.large_bytes + 1)
        while (loaned := self._reserve_loan(arena, length, topic)) is None:
            arena = yield from self.span_pool.getting(length, topic)
        return loaned

    def _reserve_loan(self, arena: Arena, length: int, topic: int) -> LoanedSpan | None:
        with self._lock.held():
            slot = arena.reserve(length)
            if slot is None:
                return None
            assert slot.filled is not None
            self._loaned_out[slot.filled] = slot.view
            return LoanedSpan(topic, slot.view, slot.filled)

    def publish_loaned(self, loaned: LoanedSpan, event: Event, encoded: EncodedEvent) -> EventShadow:
        """Publish what was filled in place."""
        topic, view, span = loaned
        deadline_ns = 0 if event.ttl is None else self.deadline_ns(event)
        with self._lock.held():
            self._loaned_out.pop(span, None)
            try:
                sequence = self._protocol.next_sequence()
                write_loaned(view, span.offset, encoded, sequence)
                crc = crc32(encoded[0])
                self._protocol.notify(topic, span.segment, span.offset, encoded[4], deadline_ns=deadline_ns, id_crc=crc)
            finally:  # Unwritten, if a signal handler has raised, it is given back.
                self._protocol.seal(span.segment, span.offset)
            self._connection.flush_locked()
        self._order_like(span, encoded[4])
        return EventShadow(event.topic, event.id, Place(topic, span.segment, span.offset, encoded[4], sequence))

    def loaning_raw(self, name: str, length: int) -> Steps[LoanedSpan | None]:
        """`loaning` for a payload that will be written there as it is, and that goes to whom its `Around` says."""
        self._lock.refuse_reentry()
        return (yield from self._loaning(name, length, self.numbers.numbering))

    def publish_raw(self, loaned: LoanedSpan, name: str, length: int, frame: Frame) -> None:
        """Publish a payload that was written in place, with a number of our own.

        Raises:
            UsageError: It is not a payload. The memory is given back.
        """
        topic, view, span = loaned
        try:
            event_id, deadline_ns = self._read_raw(view[span.offset : span.offset + length], name)
        except UsageError:
            self.return_loaned(loaned)
            raise
        with self._lock.held():
            self._loaned_out.pop(span, None)
            before = behind = b""
            try:
                sequence = self._protocol.next_sequence()
                set_sequence(view, span.offset, sequence)
                place = Place(topic, span.segment, span.offset, length, sequence)
                before, behind = frame([EventShadow(name, event_id, place)])
                crc = id_crc(event_id)
                self._protocol.notify(topic, span.segment, span.offset, length, deadline_ns=deadline_ns, id_crc=crc)
            finally:  # Unwritten, if a signal handler has raised, it is given back.
                self._protocol.seal(span.segment, span.offset)
                self._transport.write(before + self._protocol.data_to_send() + behind)
        self._order_like(span, length)

    def _read_raw(self, block: memoryview, name: str) -> tuple[EventId, int]:
        """The id and the deadline of what was written.

        Raises:
            UsageError: It is not a payload.
        """
        wrong = why_no_payload(block)
        event = None if wrong else read_event(block, sequence_in(block), name)
        try:
            if event is not None:
                if event.ttl is None:
                    return event.id, 0
                if type(event.ttl) is int and type(event.occurred_at) is int:
                    return event.id, self.deadline_ns(event)
                wrong = f"it has the ttl {event.ttl!r:.40} from {event.occurred_at!r:.40} on"
        except DecodeError as error:
            wrong = str(error)
        raise UsageError(f"what was written for topic {name!r} is not a payload: {wrong}")

    def _order_like(self, span: GrantedSpan, length: int) -> None:
        self.span_pool.order_ahead(span.length, max(length, self.span_pool.arena.large_bytes + 1), LOANS_AHEAD)

    def return_loaned(self, loaned: LoanedSpan) -> None:
        """Give the memory back; nothing is published."""
        span = loaned.span
        with self._lock.held():
            self._loaned_out.pop(span, None)
            self._protocol.seal(span.segment, span.offset)
            self._connection.flush_locked()

    def refuse_reentry(self) -> None:
        """Raise `UsageError` in the middle of this thread's own writing."""
        self._lock.refuse_reentry()

    def places(self) -> list[tuple[int, int]]:
        """(segment, offset) of every span that this process may write, loans included; with the lock held."""
        return [(span.segment, span.offset) for span in self._loaned_out] + self.span_pool.places()

    def close(self) -> list[Shown]:
        """Let go of the memory, with the lock held: the manager takes the spans back when the link ends.

        Returns:
            What loans still fill. It must not be written to any more, for soon others will.
        """
        self.span_pool.close()
        return [
            ((ctypes.c_char * span.length).from_buffer(view, span.offset), span.length)
            for span, view in self._loaned_out.items()
        ]

    def _check_size(self, event: Event, encoded: EncodedEvent) -> None:
        if encoded[4] > self.event_bytes_max:
            let_go(event, encoded)
            raise EventTooLarge(
                f"event {event.id!r} of topic {event.topic!r} has {encoded[4]} bytes encoded; "
                f"BusConfig.event_bytes_max allows {self.event_bytes_max}"
            )

    def deadline_ns(self, event: Event) -> int:
        """`occurred_at + ttl` on the monotonic clock, which is one for the whole machine and never jumps."""
        assert event.occurred_at is not None
        assert event.ttl is not None
        left_ns = (event.occurred_at + event.ttl) * self._unit_ns - self._transport.time_ns()
        return min(max(1, self._transport.monotonic_ns() + left_ns), (1 << 63) - 1)
