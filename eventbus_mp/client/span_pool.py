"""The supply of spans: ordering memory from the manager, ahead of need where possible, and waiting for it.

A listener that publishes may use the memory reserve, because what it has in hand is what the others wait for. So its
thread has an arena of its own from the first time it runs short: spans out of the reserve must not be filled by another
thread, whose waiting then would keep the listener waiting.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable

from eventbus_mp.client.connection import Connection
from eventbus_mp.errors import BusFull, EventTooLarge
from eventbus_mp.geometry import SHARED_SPAN_BYTES_MAX
from eventbus_mp.memory import segment
from eventbus_mp.memory.arena import Arena, GrantedSpan
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import SpanGranted
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_CANCELLED, SPAN_NEEDED, SPAN_RESERVE

__all__ = ["SpanPool"]

RETRY_S = 0.02
"""How long to wait when the kernel has no memory, before the manager is asked for another piece."""

LARGE_AHEAD, LARGE_AHEAD_BYTES = 2, 8 << 20
"""So many spans for large events lie ready, or more, up to so many bytes: to write into while others are on their way,
and until the readers of the first have settled."""
LOANS_AHEAD = 4
"""So many of those for loans, into which nothing is copied: of 16 MiB each, they went 1.4 times as fast as with two.
Where a copy is made, the cache would only see more memory: 10 % slower."""
AHEAD_DIVISOR = 8
"""What lies ready in one process is at most this fraction of the bus's memory: others need it, too."""


class SpanPool:
    """Args:
    connection: The link to order on.
    mappings: Where segments are mapped.
    in_listener: Whether the calling thread is running a listener.
    before_waiting: Called before a wait for memory, which settles of this process may have to end.
    describe_holders: Who holds the memory, for the text of `BusFull`.
    """

    def __init__(
        self,
        connection: Connection,
        mappings: Mappings,
        in_listener: Callable[[], bool],
        before_waiting: Callable[[], None],
        describe_holders: Callable[[], str],
    ) -> None:
        self._connection = connection
        self._mappings = mappings
        self._in_listener = in_listener
        self._before_waiting = before_waiting
        self._describe_holders = describe_holders
        self.arena = Arena(mappings, connection.welcome.span_bytes)
        """Everybody's, while memory is plenty."""
        self.listener_arena: Arena | None = None
        """Of the thread that runs listeners, once it had to wait for memory."""
        self._ordered: dict[tuple[Arena, int], int] = {}
        """(for which arena, span length) -> how many are on order."""
        self._impossible: set[int] = set()
        self._waiting: list[int] = []
        """Lengths of the spans that threads wait for."""
        self._large_length = self._large_run = 0
        """The span of the latest large event, and how many in a row took one like it."""
        self._memory_bytes_max = connection.welcome.memory_bytes_max
        self._lock = threading.RLock()  # A signal's handler may publish in the middle of this.
        connection.on_span_granted = self._on_span_granted

    def choose(self) -> Arena:
        """The arena that the calling thread appends to."""
        arena = self.listener_arena
        return arena if arena is not None and self._in_listener() else self.arena

    def get(self, length: int) -> Arena:
        """Wait until a span for an event of `length` bytes is in stock; the arena that has it.

        Raises:
            BusFull: None became free within `notify_timeout_s`.
            EventTooLarge: None of this size ever can.
        """
        arena, urgency = self.arena, SPAN_NEEDED
        if self._in_listener():
            if self.listener_arena is None:
                self.listener_arena = Arena(self._mappings, self.arena.span_bytes)
            arena, urgency = self.listener_arena, SPAN_RESERVE
        key = arena, arena.span_length(length)
        self._waiting.append(key[1])
        try:
            self._await_span(key, length, urgency)
        finally:
            self._waiting.remove(key[1])
        return arena

    def _await_span(self, key: tuple[Arena, int], length: int, urgency: int) -> None:
        arena = key[0]
        deadline = time.monotonic() + self._connection.config.notify_timeout_s
        refusal: OSError | None = None
        self._before_waiting()
        self._give_back_unused(set(self._waiting))
        while not self._prepare(key):
            refused_again, refusal = refusal, self._give_back_useless(arena) or refusal
            left_s = max(0.0, deadline - time.monotonic())
            if refusal is not None and not left_s:
                raise self._no_memory(key[1], refusal) from refusal
            if refused_again is not None:
                # Memory comes free only when events are settled; without a moment in between we only ask and refuse.
                self._connection.wait(lambda: False, min(RETRY_S, left_s))
            self._check_possible(length, key[1])
            with self._lock:
                if not self._ordered.get(key):
                    self._request_spans(key, urgency)
            if not self._connection.wait(lambda: arena.stocked(key[1]) or not self._ordered.get(key), left_s):
                holders = self._describe_holders()  # A round trip: a grant that was on its way has come with it.
                if not arena.stocked(key[1]):
                    self._give_up(key[1], refusal, holders)

    def _prepare(self, key: tuple[Arena, int]) -> bool:
        """Whether a span is in stock, with memory behind it."""
        with self._lock:
            return key[0].prepare(key[1])

    def _give_back_useless(self, arena: Arena) -> OSError | None:
        """Return the spans that the kernel has no memory for, and why: the next may have its memory already."""
        with self._lock:  # As in `_give_back_unused`.
            spans, refusal = arena.take_useless()
            if spans:
                notes = [records.pack_span_sealed(span.segment, span.offset) for span in spans]
                self._connection.send(b"".join(notes))
        return refusal

    def _no_memory(self, span_length: int, refusal: OSError) -> BusFull:
        if refusal.errno == errno.ENOSPC:
            free = segment.free_bytes()
            return BusFull(
                f"/dev/shm is full: {free} bytes are free, {span_length} are needed; {self._describe_holders()}. "
                "Make it larger (docker run --shm-size=1g), or lower BusConfig.memory_bytes_max"
            )
        return BusFull(f"the kernel gives no shared memory for {span_length} bytes: {refusal}")

    def order_ahead(self, span_length: int, event_bytes: int, at_least: int = LARGE_AHEAD) -> None:
        """A span was filled, the last time by an event of so many bytes: ask for the next now, so that it lies ready.

        Small events find one. Large ones of one size, one after the other, find `at_least` so many of theirs.

        Raises:
            ManagerLost, BusClosed: There is nobody to ask.
        """
        arena = self.arena
        limit = 1 if span_length == arena.span_bytes else 0
        if event_bytes > arena.large_bytes:
            limit = max(limit, self._large_ahead(span_length, at_least))
        key = arena, span_length
        with self._lock:
            missing = limit - self._ordered.get(key, 0) - arena.stocked(span_length)
            # Many in one write: each write may wake the manager.
            if 2 * missing >= limit:
                self._request_spans(key, SPAN_AHEAD, missing)

    def resync(self, write_lock: threading.RLock, loaned_out: Iterable[GrantedSpan]) -> list[list[int]]:
        """Forget what is on order: the answers may have gone with the manager. [segment, offset] of what is here.

        Args:
            order: The publisher's lock: nothing is written meanwhile.
            lent_out: Spans in the hands of loans.
        """
        with self._lock, write_lock:
            self._ordered.clear()
            arenas = [self.arena] if self.listener_arena is None else [self.arena, self.listener_arena]
            spans = [*loaned_out, *(span for arena in arenas for span in arena.granted())]
            return [[span.segment, span.offset] for span in spans]

    def _large_ahead(self, span_length: int, at_least: int) -> int:
        """How many spans to have ready after a large event: none for a single one, or when they are a large share."""
        if span_length != self._large_length:
            self._large_length, self._large_run = span_length, 0
            self._give_back_unused({span_length, *self._waiting})
        self._large_run += 1
        if self._large_run == 1 or span_length > SHARED_SPAN_BYTES_MAX:
            return 0
        wanted = max(at_least, LARGE_AHEAD_BYTES // span_length)
        return min(wanted, self._large_run, self._memory_bytes_max // AHEAD_DIVISOR // span_length)

    def _give_back_unused(self, kept: set[int]) -> None:
        with self._lock:  # What `begin_anew` does not find here, the manager knows to be sealed.
            spans = self.arena.take_unused(kept)
            if spans:
                notes = [records.pack_span_sealed(span.segment, span.offset) for span in spans]
                self._connection.send(b"".join(notes))

    def close(self) -> None:
        """Let go of the memory."""
        self.arena.close()
        if self.listener_arena is not None:
            self.listener_arena.close()

    def _request_spans(self, key: tuple[Arena, int], urgency: int, count: int = 1) -> None:
        self._ordered[key] = self._ordered.get(key, 0) + count
        self._connection.send(records.pack_span_wanted(key[1], urgency) * count)

    def _check_possible(self, length: int, span_length: int) -> None:
        if span_length in self._impossible:
            raise EventTooLarge(
                f"an event of {length} bytes needs {span_length} bytes of shared memory in one piece, "
                "which the bus's memory does not have; raise BusConfig.memory_bytes_max"
            )

    def _give_up(self, span_length: int, refusal: OSError | None, holders: str) -> None:
        with self._lock:
            for key in [key for key in self._ordered if key[1] == span_length]:
                self._ordered[key] = 0  # The other thread that waits, if one does, orders again.
            self._connection.send(records.pack_span_wanted(span_length, SPAN_CANCELLED))
        if refusal is not None:
            raise self._no_memory(span_length, refusal) from refusal
        raise BusFull(
            f"no {span_length} bytes of the bus's memory became free within "
            f"{self._connection.config.notify_timeout_s:g} s: {holders}. "
            "Settle events faster, or raise BusConfig.memory_bytes_max"
        )

    def _on_span_granted(self, grant: SpanGranted) -> None:
        with self._lock:
            arena = self._orderer(grant)
            if grant.segment and arena is not None:
                arena.add(GrantedSpan(*grant))
            if arena is not None:
                self._ordered[arena, grant.length] -= 1
        if grant.segment and arena is None:
            # Granted just when we gave up waiting.
            self._connection.send(records.pack_span_sealed(grant.segment, grant.offset))
        elif not grant.segment and grant.backed:
            self._impossible.add(grant.length)

    def _orderer(self, grant: SpanGranted) -> Arena | None:
        """Who gets it: listeners first, as the manager has it, too. A no for now answers an order ahead."""
        arenas = [self.listener_arena, self.arena] if grant.segment or grant.backed else [self.arena]
        return next((arena for arena in arenas if arena and self._ordered.get((arena, grant.length))), None)
