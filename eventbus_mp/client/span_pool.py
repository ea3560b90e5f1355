"""The span pool: memory from the manager, ordered ahead of need where possible, and waited for.

A listener that publishes may use the memory reserve and, beyond it, files, because the events that it has in flight
are what the other producers wait for. So its thread has an arena of its own from the first time that it runs short:
spans out of the reserve must not be filled by another thread, whose wait would then keep the listener waiting.

All of it is guarded by the transport's lock, which also keeps the order of what is written. It is held while records
are sent; that cannot deadlock, because the manager never waits for a process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from functools import partial

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.span_orders import LARGE_AHEAD
from eventbus_mp.client.steps import Steps, until
from eventbus_mp.errors import BusFull, EventBusError, EventTooLarge
from eventbus_mp.geometry import WAIT_S_MAX
from eventbus_mp.memory.arena import Arena, GrantedSpan
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.memory.shm import SHM_DIR
from eventbus_mp.protocol.client_events import SpanGranted
from eventbus_mp.protocol.messages import SPAN_AHEAD, SPAN_NEEDED, SPAN_RESERVE

__all__ = ["SpanPool"]

RETRY_S = 0.02
"""How long to wait when the kernel has no memory, before the manager is asked for another piece."""


class SpanPool:
    """Args:
    connection: The link to order on.
    mappings: Where segments are mapped.
    running: The endpoint whose listener the calling thread is running; None if it runs none.
    before_waiting: Called before a wait for memory, which outcomes that are not reported yet may end.
    describe_holders: Who holds the memory, for the text of `BusFull`.
    """

    def __init__(
        self,
        connection: Connection,
        mappings: Mappings,
        running: Callable[[], ClientEndpoint | None],
        before_waiting: Callable[[], None],
        describe_holders: Callable[[], Steps[str]],
    ) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._orders = connection.protocol.orders
        self._lock = connection.transport.lock
        self._mappings = mappings
        self._running = running
        self.before_waiting = before_waiting
        self._describe_holders = describe_holders
        self.arena = Arena(mappings, connection.welcome.span_bytes)
        """Every thread's, while memory is plenty."""
        self.listener_arena: Arena | None = None
        """Of the thread that runs listeners, once it had to wait for memory."""
        self._waiting: list[int] = []
        """Lengths of the spans that threads wait for."""
        connection.on_span_granted = self._take_in

    def choose(self) -> Arena:
        """The arena that the calling thread appends to."""
        arena = self.listener_arena
        return arena if arena is not None and self._running() is not None else self.arena

    def get(self, length: int, topic: int, timeout_s: float | None = None) -> Arena:
        """Wait for a span; see `getting`."""
        return self._connection.run(self.getting(length, topic, timeout_s))

    def getting(self, length: int, topic: int, timeout_s: float | None = None) -> Steps[Arena]:
        """Wait until a span for an event of `length` bytes, of this topic, is in stock: the arena that has it.

        Raises:
            BusFull: None became free within `timeout_s`; None: `notify_timeout_s`.
            EventTooLarge: None of this size ever can.
        """
        arena, running = self.arena, self._running()
        if running is not None:
            if self.listener_arena is None:
                self.listener_arena = Arena(self._mappings, self.arena.span_bytes)
            arena = self.listener_arena
        span_length = arena.span_length(length)
        self._waiting.append(span_length)
        try:
            yield from self._await_span(arena, span_length, length, running, topic, timeout_s)
        except BaseException:  # A signal handler may have raised between the order's note and its record.
            self._cancel(span_length)
            raise
        finally:
            self._waiting.remove(span_length)
        return arena

    def _await_span(
        self,
        arena: Arena,
        span_length: int,
        length: int,
        running: ClientEndpoint | None,
        topic: int,
        timeout_s: float | None,
    ) -> Steps[None]:
        connection = self._connection
        now_ns = connection.transport.monotonic_ns
        if timeout_s is None:
            timeout_s = connection.config.notify_timeout_s
        deadline_ns = now_ns() + int(min(timeout_s, WAIT_S_MAX) * 1e9)
        refusal: OSError | None = None
        self.before_waiting()
        connection.call(self._give_back_unused, set(self._waiting))
        while not self._prepare(arena, span_length):
            refused_again, refusal = refusal, connection.call(self._give_back_useless, arena) or refusal
            left_s = max(0.0, (deadline_ns - now_ns()) / 1e9)
            if refusal is not None and not left_s:
                raise (yield from self._no_memory(span_length, refusal)) from refusal
            if refused_again is not None:
                # Memory comes free only when events are settled; without a pause we would only ask and refuse.
                yield until(lambda: False, min(RETRY_S, left_s))
            self._check_possible(length, span_length)
            connection.call(self._order_once, arena, span_length, running, topic)
            has_answer = partial(self._has_answer, arena, span_length)
            if not (yield until(has_answer, left_s)):
                holders = yield from self._describe_holders()  # A grant that was on its way has come with the answer.
                if not arena.stocked(span_length):
                    if refusal is not None:
                        raise (yield from self._no_memory(span_length, refusal)) from refusal
                    raise self._too_late(span_length, holders, timeout_s)

    def _has_answer(self, arena: Arena, span_length: int) -> bool:
        """Whether a span that was ordered is there, or was refused."""
        return bool(arena.stocked(span_length)) or not self._orders.count(arena, span_length)

    def _prepare(self, arena: Arena, span_length: int) -> bool:
        """Whether a span is in stock, with memory behind it."""
        with self._lock.held():
            return arena.prepare(span_length)

    # --- with the lock held, through `Connection.call` ---

    def _order_once(self, arena: Arena, span_length: int, running: ClientEndpoint | None, topic: int) -> None:
        if self._orders.count(arena, span_length):
            return
        if running is None:
            self._protocol.order_spans(arena, span_length, SPAN_NEEDED)
        else:
            self._protocol.order_spans(arena, span_length, SPAN_RESERVE, 1, running.number, topic)

    def _give_back_useless(self, arena: Arena) -> OSError | None:
        """Return the spans that the kernel has no memory for, and why: the next may have its memory already."""
        spans, refusal = arena.take_useless()
        self._seal(spans)
        return refusal

    def _give_back_unused(self, kept: set[int]) -> None:
        self._seal(self.arena.take_unused(kept))

    def _seal(self, spans: Iterable[GrantedSpan]) -> None:
        for span in spans:
            self._protocol.seal(span.segment, span.offset)

    def _order_ahead(self, span_length: int, event_bytes: int, at_least: int) -> None:
        arena, orders = self.arena, self._orders
        limit = 1 if span_length == arena.span_bytes else 0
        if event_bytes > arena.large_bytes:
            if orders.changes_size(span_length):
                self._give_back_unused({span_length, *self._waiting})
            limit = max(limit, orders.large_ahead(span_length, at_least))
        missing = limit - orders.count(arena, span_length) - arena.stocked(span_length)
        # Many in one write: each write may wake the manager.
        if missing > 0 and 2 * missing >= limit:
            self._protocol.order_spans(arena, span_length, SPAN_AHEAD, missing)

    def _take_in(self, grant: SpanGranted) -> None:
        """A grant has arrived: into the stock of the arena that ordered it, or back when nobody wants it any more."""
        # Listeners first, as the manager serves them. A refusal for now answers an order ahead, never a listener's.
        arenas: list[Hashable] = [self.arena]
        if self.listener_arena is not None and (grant.segment or grant.backed):
            arenas.insert(0, self.listener_arena)
        arena = self._orders.granted(grant, arenas)
        if not grant.segment:
            return
        if isinstance(arena, Arena):
            arena.add(GrantedSpan(grant.segment, grant.offset, grant.length, grant.backed))
        else:
            self._protocol.seal(grant.segment, grant.offset)

    def places(self) -> list[tuple[int, int]]:
        """(segment, offset) of every span that this process may write; with the lock held."""
        arenas = [self.arena] if self.listener_arena is None else [self.arena, self.listener_arena]
        return [(span.segment, span.offset) for arena in arenas for span in arena.granted()]

    # --- the callers' side ---

    def order_ahead(self, span_length: int, event_bytes: int, at_least: int = LARGE_AHEAD) -> None:
        """A span was filled, at last by an event of `event_bytes`: order the next one before it is needed.

        Small events find one. Large ones of one size, one after the other, find `at_least` so many of theirs.

        Raises:
            ManagerLost, BusClosed: The link has ended.
        """
        try:
            self._connection.call(self._order_ahead, span_length, event_bytes, at_least)
        except BaseException:  # As in `get`: an order that never went out would be waited for.
            self._cancel(span_length)
            raise

    def _cancel(self, span_length: int) -> None:
        """Nobody waits any more, because of an exception; a span that comes nevertheless goes back."""
        with suppress(EventBusError):  # The link has ended, or the exception's traceback still holds the lock.
            self._connection.call(self._protocol.cancel_spans, span_length)

    def retire(self) -> None:
        """Give back every span that this process may write, with the lock held: the next event waits for one."""
        for segment, offset in self.places():
            self._protocol.seal(segment, offset)
        self.arena.drop()
        if self.listener_arena is not None:
            self.listener_arena.drop()

    def close(self) -> None:
        """Let go of the memory, with the lock held."""
        self.arena.close()
        if self.listener_arena is not None:
            self.listener_arena.close()

    # --- errors ---

    def _check_possible(self, length: int, span_length: int) -> None:
        if self._orders.is_impossible(span_length):
            raise EventTooLarge(
                f"an event of {length} bytes needs {span_length} bytes of shared memory in one piece, "
                "which the bus's memory does not have; raise BusConfig.memory_bytes_max"
            )

    def _no_memory(self, span_length: int, refusal: OSError) -> Steps[BusFull]:
        holders = yield from self._describe_holders()
        directory = os.path.dirname(refusal.filename or "")
        if refusal.errno == errno.ENOSPC and directory not in ("", str(SHM_DIR)):
            return BusFull(
                f"{directory} has no room for {span_length} bytes of events: {holders}. "
                "Give BusConfig.spill_dir a directory with more room, or settle events faster"
            )
        if refusal.errno == errno.ENOSPC:
            free = self._mappings.store.free_bytes()
            return BusFull(
                f"/dev/shm is full: {free} bytes are free, {span_length} are needed; {holders}. "
                "Make it larger (docker run --shm-size=1g), or lower BusConfig.memory_bytes_max"
            )
        return BusFull(f"the kernel gives no shared memory for {span_length} bytes: {refusal}")

    @staticmethod
    def _too_late(span_length: int, holders: str, timeout_s: float) -> BusFull:
        return BusFull(
            f"no {span_length} bytes of the bus's memory became free within {timeout_s:g} s: {holders}. "
            "Settle events faster, or raise BusConfig.memory_bytes_max"
        )
