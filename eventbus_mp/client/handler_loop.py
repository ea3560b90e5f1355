"""Running handlers: the loop of a thread. crews.py says which threads there are, and which handlers they run.

It takes deliveries one by one, runs the handler, and reports outcomes in batches: when no delivery is left, or two
milliseconds after the last report (up to four, if the handler is slow).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint, Slot
from eventbus_mp.client.handlers import BatchingHandler, Handler, log_error
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.errors import ManagerLost
from eventbus_mp.locking import PerThread
from eventbus_mp.protocol.messages import Outcome, Record

__all__ = ["HandlerLoop", "current_loop", "running_endpoint"]

FLUSH_INTERVAL_NS, FLUSH_INTERVAL_SLOW_NS = 2_000_000, 4_000_000
"""A report of outcomes wakes the manager. For tasks of 1 ms on two cores, reporting each outcome alone cost 5 % of the
throughput, and reporting two together still cost 1.5 %. So slow handlers report FLUSHED_SLOW together, if these take no
longer than the second interval."""
FLUSHED_SLOW = 4
CROWD = 64
"""With more pending deliveries than this the handler is a fast one, and the clock is read after every eighth only."""
SLOW_NS = 500_000
"""From this cost of a delivery on, the loop looks at the pipe when it reports."""
COMPLETED = int(Outcome.COMPLETED)
ALL = 1 << 30
"""More loops than any crew has."""
UNREADABLE_PAUSE_S = 0.1
"""An event that cannot be read may come back at once, and nothing may have changed."""


_local = PerThread()


def current_loop() -> HandlerLoop | None:
    """The loop whose listener the calling thread is running; None if it runs none."""
    return getattr(_local.here, "loop", None)


def running_endpoint() -> ClientEndpoint | None:
    """The endpoint whose listener the calling thread is running; None if it runs none."""
    loop = current_loop()
    return loop.running if loop is not None else None


def _never() -> bool:
    return False


class HandlerLoop:
    """Runs handlers until it is stopped. One thread runs it; any thread may add handlers or stop it.

    Args:
        connection: The link to wait on.
        reporter: What reports outcomes.
        after_each: Called after every delivery.
    """

    def __init__(
        self, connection: Connection, reporter: Reporter, after_each: Callable[[], None] | None = None
    ) -> None:
        self._connection = connection
        self._reporter = reporter
        self._now_ns = connection.transport.monotonic_ns
        self._handlers: dict[int, Handler] = {}
        self._batching: dict[int, BatchingHandler] = {}
        self._queues: tuple[deque[Record], ...] = ()
        """What is pending of each of `_handlers`, for `_wanted`, which is asked three times for a lone event."""
        self._until_ns = inf
        """Until when `run` waits for batches that are not full."""
        self.running: ClientEndpoint | None = None
        """Whose handler runs; None: no handler does."""
        self.is_stopping = False
        """Whether it ends after what it runs; see `stop`."""
        self.crew: object = None
        """The same for all loops that run the same handlers; None: no other one does."""
        self._flushed_ns = 0
        self.after_each = after_each
        self.events_handled = 0
        """Counted only if there is an `after_each`."""

    def add(self, handler: Handler) -> None:
        """Run this handler from now on, of a subscriber that has none here."""
        endpoint = handler.endpoint
        endpoint.slots.setdefault(self, Slot())
        if isinstance(handler, BatchingHandler):
            self._batching[endpoint.number] = handler
        else:
            self._handlers[endpoint.number] = handler
            self._note_queues()
        self._connection.wake()

    def remove(self, number: int) -> None:
        """Stop running this subscriber's handler. The caller returns the deliveries that have arrived for it."""
        self._handlers.pop(number, None)
        self._note_queues()
        batching = self._batching.pop(number, None)
        if batching is not None:
            batching.retire()

    def _note_queues(self) -> None:
        self._queues = tuple([handler.endpoint.pending for handler in tuple(self._handlers.values())])

    def runs(self, endpoint: ClientEndpoint) -> bool:
        """Whether it runs this endpoint's handler, and so reports what is settled there."""
        return endpoint.number in self._handlers or endpoint.number in self._batching

    def stop(self) -> None:
        """Return from `run` after the delivery that is being handled; safe in a signal handler."""
        self.is_stopping = True
        self._connection.wake()

    def run(self) -> None:
        """Run until `stop`, or until the connection ends. Blocks while there is nothing to do.

        Raises:
            ManagerLost, BusClosed: The connection ended.
        """
        _local.here.loop = self
        try:
            while not self.is_stopping:
                if self._batching:
                    self._wait_for_batches()
                else:
                    self._connection.wait(self._wanted, None, self.crew)
                self._run_all()
            self.flush()
        finally:
            self.running = None

    def _wait_for_batches(self) -> None:
        """Wait until a handler has work. The first event of a batch ends the wait, which then begins anew with it."""
        self._until_ns = until_ns = self.due_ns
        left_s = None if until_ns == inf else max(0.0, (until_ns - self._now_ns()) / 1e9)
        self._connection.wait(self._wanted, left_s, self.crew)

    @property
    def due_ns(self) -> float:
        """When the next batch is due that is not full; infinite if there is none."""
        return min((handler.due_ns for handler in tuple(self._batching.values())), default=inf)

    @property
    def has_work(self) -> bool:
        """Whether a handler has something to do now."""
        return any(handler.endpoint.pending for handler in tuple(self._handlers.values())) or bool(
            self._ready_batches()
        )

    def _ready_batches(self) -> list[BatchingHandler]:
        now_ns = self._now_ns()
        return [handler for handler in tuple(self._batching.values()) if handler.is_full or handler.due_ns <= now_ns]

    def run_pending(self) -> None:
        """Run what is pending now, and return: for a loop of the caller's own."""
        before, _local.here.loop = current_loop(), self
        try:
            self._run_all()
        finally:
            _local.here.loop, self.running = before, None

    def _run_all(self) -> None:
        for handler in tuple(self._handlers.values()):
            if handler.endpoint.pending:
                self._run_pending(handler)
        if self._batching:
            for batching in self._ready_batches():
                if not self.is_stopping:
                    self._run_batch(batching)

    def _wanted(self) -> int:
        """How many loops of the crew there is something for; 0: this one is to wait. Unlike `has_work`, it reads no
        clock: `run` waits until a batch is due anyway."""
        if self.is_stopping:
            return ALL
        if self._batching:
            for batching in tuple(self._batching.values()):
                if batching.is_full or batching.due_ns < self._until_ns:
                    return ALL
        count = 0
        for queue in self._queues:
            count += len(queue)
        return count

    def _run_batch(self, handler: BatchingHandler) -> None:
        self.running = endpoint = handler.endpoint
        began_ns = self._now_ns()
        records = handler.take()
        if records:
            count = len(records)
            handler.run_batch(records)
            endpoint.cost_ns = (self._now_ns() - began_ns) // count
            if self.after_each is not None:
                self.events_handled += count
                self.after_each()
        self.running = None
        self._reporter.flush(endpoint)
        self._reporter.release_ended()

    def _run_pending(self, handler: Handler) -> None:
        self.running = endpoint = handler.endpoint
        run, after_each = handler.run, self.after_each
        slot, note_completed = endpoint.slots[self], endpoint.note_completed
        interval_ns = min(max(FLUSH_INTERVAL_NS, FLUSHED_SLOW * endpoint.cost_ns), FLUSH_INTERVAL_SLOW_NS)
        # hot path: 2.6 us a delivery, with the event and its handler.
        # Only what is pending now: deliveries of other subscribers wait in the pipe meanwhile.
        now = self._now_ns
        began_ns, count = now(), len(endpoint.pending)
        left = count + 1
        try:
            for left, record in zip(range(count, 0, -1), endpoint.takes, strict=False):
                slot.current = record  # First, see endpoint.py.
                # record[6] is its deadline; most have none.
                try:
                    outcome = run(record) if not record[6] or record[6] > now() else handler.expire(record)
                except (OSError, ManagerLost) as error:
                    outcome = self._hand_back(handler, error)
                if outcome == COMPLETED:
                    note_completed(record[7])
                elif outcome:
                    endpoint.note(record[7], outcome)
                if after_each is not None:
                    self.events_handled += 1
                    after_each()
                if self.is_stopping:
                    break
                if left > CROWD and left & 7:
                    continue
                now_ns = now()
                if now_ns - self._flushed_ns > interval_ns or left == 1:
                    endpoint.cost_ns = (now_ns - began_ns) // (count - left + 1)
                    slot.current = None  # It may come again, and then has not arrived.
                    self.flush()
                    self._flushed_ns = now_ns
                    if left > 1 and endpoint.cost_ns > SLOW_NS:
                        self._connection.wait(_never, 0)  # Take in what has come: some of this may be called back.
        except IndexError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise  # It comes out of something that was called.
            # Another thread handles the rest, or has returned it to the bus.
            if left <= count:
                endpoint.cost_ns = (now() - began_ns) // (count - left + 1)
        slot.current = self.running = None
        self._reporter.flush(endpoint)
        self._reporter.release_ended()

    def _hand_back(self, handler: Handler, error: Exception) -> int:
        """What becomes of a delivery that this process cannot read: another one may take it, or this one, later.

        Most likely no descriptor or address space is left to map its memory with.
        """
        if self._reporter.lost:
            raise error
        log_error("%s cannot read an event, which goes back to the bus: %s", handler.endpoint.key.name, error)
        self._connection.wait(lambda: self.is_stopping, UNREADABLE_PAUSE_S)
        return Outcome.RETURNED

    def flush(self) -> None:
        """Report all outcomes now."""
        flush = self._reporter.flush
        for handler in tuple(self._handlers.values()):
            flush(handler.endpoint)
        for batching in tuple(self._batching.values()):
            flush(batching.endpoint)
