"""Handlers of batches: when a batch is due, taking it, and settling each of its events.

The loop asks `due_ns`, and waits no longer than that; nothing looks at the clock in between, and the handlers of other
subscribers run meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.handlers import BatchingHandler, log_error
from eventbus_mp.client.plain_calls import refuse_unrun
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.client.retries import Retries, failure_of, text_of_error
from eventbus_mp.errors import BusClosed, BusFull, ManagerLost, Retry, Skip, UsageError
from eventbus_mp.events import Event
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.reasons import PAYLOAD_GONE

__all__ = ["BatchCall", "BatchHandler", "outcomes_of"]

COMPLETED = int(Outcome.COMPLETED)


class BatchCall:
    """The user's function, whose result is always a list with None or an exception for each event. Equal if it is.

    One for asyncio (aio/handlers.py) gives that list when it is awaited.
    """

    def __init__(self, function: Callable[[list[Event]], Any]) -> None:
        self._function = function

    def __call__(self, events: list[Event]) -> Any:
        count = len(events)  # The list is the function's from now on.
        found = self._function(events)
        if found is not None:
            refuse_unrun(found)
        return outcomes_of(found, count)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchCall) and self._function == other._function

    def __hash__(self) -> int:
        return hash(self._function)


def outcomes_of(found: Any, count: int) -> list[BaseException | None]:
    """What the user's function has returned for a batch, as None or an exception for each event.

    Raises:
        UsageError: It is neither None nor a list of these.
    """
    if found is None:
        return [None] * count
    outcomes = list(found) if isinstance(found, (list, tuple)) else []
    is_good = all(outcome is None or isinstance(outcome, BaseException) for outcome in outcomes)
    if len(outcomes) != count or not is_good:
        raise UsageError(
            f"the handler of a batch of {count} returned {found!r:.80}; return None, or a list with None, a Skip, "
            "a Retry or another exception for each event"
        )
    return outcomes


class BatchHandler(BatchingHandler):
    """For `EventBus.on(..., batch=)`: the function gets a list of events.

    Args:
        call: A `BatchCall`, perhaps with hooks around it.
        retries: How often, and after how long, the events of a function that raises are tried again.
        size: The largest batch.
        within_ns: How long an event waits for the batch to become full.
        now_ns: The clock.
    """

    def __init__(
        self,
        endpoint: ClientEndpoint,
        fetcher: EventFetcher,
        reporter: Reporter,
        call: Callable[[list[Event]], Any],
        *,
        retries: Retries,
        size: int,
        within_ns: int,
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__(endpoint, fetcher, reporter, call)
        self._retries = retries
        self._size = size
        self._within_ns = within_ns
        self._now_ns = now_ns
        self._taken = 0
        """How many deliveries were taken so far."""
        self._arrivals: deque[tuple[int, int]] = deque()
        """(how many had arrived after it, when) of each arrival with something that is not taken."""
        endpoint.on_arrival = self._note_arrival
        if endpoint.pending:
            self._note_arrival()

    def retire(self) -> None:
        """See `Handler.retire`."""
        if self.endpoint.on_arrival == self._note_arrival:
            self.endpoint.on_arrival = None

    def _note_arrival(self) -> None:
        # Another thread may take some at this moment: then a batch is due a little early or late, and that is all.
        self._arrivals.append((self._taken + len(self.endpoint.pending), self._now_ns()))

    @property
    def is_full(self) -> bool:
        """See `BatchingHandler.is_full`."""
        return len(self.endpoint.pending) >= self._size

    @property
    def due_ns(self) -> float:
        """See `BatchingHandler.due_ns`."""
        if not self.endpoint.pending:
            return inf
        arrivals = self._arrivals
        while arrivals and arrivals[0][0] <= self._taken:
            arrivals.popleft()
        return arrivals[0][1] + self._within_ns if arrivals else 0

    def take(self) -> list[Record]:
        """See `BatchingHandler.take`."""
        endpoint, now_ns = self.endpoint, self._now_ns()
        batch = endpoint.batch
        while len(batch) < self._size:
            try:
                for record in endpoint.takes:
                    batch.append(record)
                    break
            except IndexError:
                break  # Or another thread returned the rest to the bus.
            self._taken += 1
            record = batch[-1]
            if record[6] and record[6] <= now_ns:
                self.expire(record)
                batch.pop()
        return batch

    def run_batch(self, records: list[Record]) -> None:
        """See `BatchingHandler.run_batch`."""
        self._run(records)
        self.endpoint.batch = []

    def _run(self, records: list[Record]) -> None:
        attempts = 0
        while True:
            found = self._read(records)
            if not found:
                return
            records = [record for record, _ in found]  # The others are settled.
            try:
                ends = self.call([event for _, event in found])
            except BaseException as error:
                # BaseException: `sys.exit()` in a handler is the handler's failure. It does not end the thread.
                attempts += 1
                if self._have_ended(records, error, attempts):
                    return
            else:
                self._end_each(records, ends)
                return

    def _have_ended(self, records: list[Record], error: BaseException, attempts: int) -> bool:
        """Whether an attempt that raised was the last one; then the outcomes are noted."""
        if isinstance(error, (BusClosed, ManagerLost)) and self.reporter.lost:
            raise error  # The outcomes cannot be reported to anybody.
        retries = self._retries
        if isinstance(error, (Skip, Retry, BusFull)) or retries.delay_s or attempts > retries.count:
            self._end_all(records, error, attempts)
            return True
        for record in records:
            self.endpoint.note_attempt(record[7])
        return False

    def _end_each(self, records: list[Record], ends: list[BaseException | None]) -> None:
        """Settle the events of a batch as the function has returned them."""
        for record, end in zip(records, ends, strict=True):
            self._end(record, end)

    def _read(self, records: list[Record]) -> list[tuple[Record, Event]]:
        """The events of these deliveries; those whose event cannot be read are settled."""
        found = []
        for record in records:
            try:
                event = self.fetcher.delivered_event(record)
            except Exception as error:  # Memory that cannot be mapped is this event's failure, and no other one's.
                self._fail(record, "cannot read", error)
                continue
            if event is not None:
                found.append((record, event))
            else:
                self._skip(record, PAYLOAD_GONE, Outcome.FAILED)
        return found

    def _end(self, record: Record, end: BaseException | None) -> None:
        """Settle one event as the function has returned it."""
        if end is None:
            self.endpoint.note(record[7], COMPLETED)
        elif isinstance(end, Skip):
            self._skip(record, text_of_error(end), Outcome.SKIPPED)
        elif isinstance(end, Retry):
            self._retry_as_asked(record, end)
        elif isinstance(end, BusFull):
            self._release(record, end)
        else:
            self._fail(record, "failed", end)

    def _end_all(self, records: list[Record], error: BaseException, attempts: int) -> None:
        """Settle a batch whose function has raised, all alike; those that have been tried before may end earlier."""
        if isinstance(error, (Skip, Retry, BusFull)):
            for record in records:
                self._end(record, error)
            return
        retries, attempt_of = self._retries, self.endpoint.attempt_of
        failed = []
        for record in records:
            attempt = attempt_of(record[7]) if retries.delay_s else attempts
            if attempt <= retries.count:
                self._retry(record, error, retries.delay_ns(attempt))
            else:
                failed.append(record)
        if failed:
            self._fail_all(failed, error, attempts)

    def _fail_all(self, records: list[Record], error: BaseException, attempts: int) -> None:
        """One line in the log for all of them."""
        first = self.fetcher.delivered_shadow(records[0])
        what = "%s raised %d times on a batch of %d events, the first of which is %r: skipped"
        log_error(what, self.endpoint.key.name, attempts, len(records), first, error=error)
        failure, reason = failure_of(error, attempts), f"{type(error).__name__}: {text_of_error(error)}"
        for record in records:
            self.endpoint.failures[record[7]] = failure
            self._skip(record, reason, Outcome.FAILED)
