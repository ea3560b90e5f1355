"""Tasks that run handlers: for each subscriber a crew, of one task or of several.

A task takes a delivery, awaits the handler's call, notes the outcome, and takes the next one. It goes on as long as
calls do not wait for anything, and gives the loop a turn every two milliseconds. When a call waits, the loop comes to
`Crew._on_suspended`, which reports what is settled until then, says what was taken, and has another task go on if the
handler may run more than once at a time.
"""

from __future__ import annotations

from contextvars import ContextVar

from eventbus_mp.aio.handlers import AsyncHandler
from eventbus_mp.aio.link import Link
from eventbus_mp.aio.loops import Future, Task
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.handler_loop import CROWD, FLUSH_INTERVAL_NS
from eventbus_mp.client.handlers import log_error, warn_replaced
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost
from eventbus_mp.protocol.messages import Outcome, Record

__all__ = ["Crew", "HandlerTasks", "running_endpoint"]

COMPLETED, RETURNED = int(Outcome.COMPLETED), int(Outcome.RETURNED)
TURN_NS = 2_000_000
"""For how long a task handles deliveries whose calls wait for nothing, before the loop has a turn."""
PAUSE_NS = 1_000_000_000
"""For how long a delivery goes back whose handler was cancelled, or could not read it, though its crew goes on."""

_running: ContextVar[ClientEndpoint | None] = ContextVar("eventbus_mp_running", default=None)


def running_endpoint() -> ClientEndpoint | None:
    """The endpoint whose handler has made this call, in its task or in one that it has made; None: no handler has."""
    return _running.get()


class HandlerTasks:
    """The crews of a session."""

    def __init__(self, link: Link, fetcher: EventFetcher, reporter: Reporter) -> None:
        self._link = link
        self.fetcher = fetcher
        self.reporter = reporter
        self._crews: dict[int, Crew] = {}
        """By the subscriber's number."""
        self._leaving: set[Crew] = set()
        """Crews of which another one has the subscriber, or nobody; their last calls are still under way."""

    def add(self, handler: AsyncHandler, concurrency: int) -> None:
        """Run this handler from now on. It replaces the one that its subscriber had."""
        number = handler.endpoint.number
        before = self._crews.get(number)
        if before is not None:
            warn_replaced(before.handler, handler)
        self.remove(number)
        self._crews[number] = Crew(handler, concurrency, self._link, self.fetcher, self.reporter)

    def remove(self, number: int) -> None:
        """Begin no call of this subscriber's handler any more."""
        crew = self._crews.pop(number, None)
        if crew is not None:
            crew.stop()
            self._leaving = {item for item in self._leaving if item.tasks} | {crew}

    def cancel(self) -> None:
        """Cancel all tasks, and wait for nothing; harmless if the loop has ended."""
        for crew in (*self._crews.values(), *self._leaving):
            crew.cancel()

    async def finish(self) -> None:
        """Begin no call any more, and wait for those that are under way, but for that which calls this."""
        crews = (*self._crews.values(), *self._leaving)
        for crew in crews:
            crew.stop()
        under_way = {task for crew in crews for task in crew.tasks} - {self._link.loop.current_task()}
        if under_way:
            await self._link.loop.join(under_way)


class Crew:
    """The tasks that run one handler. There is one, and others are made when there is work for them.

    Args:
        handler: The handler.
        concurrency: How many tasks there may be.
        link: The link.
        fetcher: Where the names of topics are.
        reporter: Where outcomes go.
    """

    def __init__(
        self, handler: AsyncHandler, concurrency: int, link: Link, fetcher: EventFetcher, reporter: Reporter
    ) -> None:
        self.handler = handler
        self.endpoint = endpoint = handler.endpoint
        self.tasks: set[Task] = set()
        self._concurrency = concurrency
        self._link = link
        self._loop = link.loop
        self._fetcher = fetcher
        self._reporter = reporter
        self._now_ns = link.transport.monotonic_ns
        self._idle: Future | None = None
        """Set when a task waits for deliveries; at most one does."""
        self._fresh: list[int] = []
        """What was begun since the loop had its last turn."""
        self._is_looked_at = False
        """`_on_suspended` is going to be called."""
        self._is_over = False
        self._flushed_ns = 0
        endpoint.on_arrival = self._wake
        self._wake()

    # --- who works ---

    def _wake(self) -> None:
        """There is work: have a task go on, or make one."""
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
        elif len(self.tasks) < self._concurrency and not self._is_over and not self._loop.is_closed():
            self.tasks.add(self._loop.spawn(self._work, f"eventbus_mp-{self.endpoint.key.name}", self._note_end))

    def _note_end(self, task: Task) -> None:
        """A task has ended. If it was cancelled, what is pending may have nobody else."""
        self.tasks.discard(task)
        if task.cancelled() and not self._is_over and not self._loop.is_closed() and not self._loop.is_structured:
            # Not at once: the end of a loop cancels all tasks, and one that is made then would never run.
            self._loop.call_later(PAUSE_NS / 1e9, self._wake)

    def stop(self) -> None:
        """Begin no call any more."""
        self._is_over = True
        if self.endpoint.on_arrival == self._wake:
            self.endpoint.on_arrival = None
        if not self._loop.is_closed():
            self._wake()

    def cancel(self) -> None:
        """Cancel all tasks."""
        self._is_over = True
        if not self._loop.is_closed():
            for task in tuple(self.tasks):
                task.cancel()

    async def _work(self) -> None:
        _running.set(self.endpoint)
        pending = self.endpoint.pending
        while not self._is_over:
            if self._idle is not None and len(pending) < max(1, self.handler.size):
                return  # Another one waits already.
            if not pending:
                await self._arrival(None)
                continue
            try:
                if self.handler.size:
                    await self._run_batch()
                else:
                    await self._run_pending()
            except (ManagerLost, BusClosed):
                return  # What is here is lost with the bus, or has gone to others.

    async def _arrival(self, timeout_s: float | None) -> None:
        """Wait until something arrives, or it is over."""
        self._idle = idle = self._loop.create_future()
        try:
            await self._loop.wait(idle, timeout_s)
        finally:
            self._idle = None

    # --- the work ---

    async def _run_pending(self) -> None:
        # hot path: once for each delivery.
        endpoint, handle, now_ns = self.endpoint, self.handler.handle, self._now_ns
        pending, running, note_completed = endpoint.pending, endpoint.running, endpoint.note_completed
        named = self._fetcher.named
        count, began_ns = 0, now_ns()
        while pending and not self._is_over:
            record = pending.popleft()
            sequence = record[7]
            running[sequence] = record
            if not self._is_looked_at:
                self._is_looked_at = True
                self._loop.call_soon(self._on_suspended)
            self._fresh.append(sequence)
            try:
                if record[1] not in named:
                    await self._link.run(self._fetcher.naming(record[1]))
                if not record[6] or record[6] > now_ns():
                    outcome = await handle(record)
                else:
                    outcome = self.handler.expire(record)
            except BaseException as error:
                outcome = self._left([record], error)
            finally:
                running.pop(sequence, None)
            if outcome == COMPLETED:
                note_completed(sequence)
            elif outcome:
                endpoint.note(sequence, outcome)
            count += 1
            if len(pending) > CROWD and count & 7:
                continue
            at_ns = now_ns()
            if not pending or at_ns - self._flushed_ns > FLUSH_INTERVAL_NS:
                self._flush(at_ns - began_ns, count)
                self._flushed_ns = at_ns
            if at_ns - began_ns > TURN_NS:
                await self._loop.turn()
                count, began_ns = 0, now_ns()

    async def _run_batch(self) -> None:
        handler, endpoint = self.handler, self.endpoint
        await self._await_full()
        records: list[Record] = []
        while endpoint.pending and len(records) < handler.size:
            record = endpoint.pending.popleft()
            if record[6] and record[6] <= self._now_ns():
                handler.expire(record)
            else:
                records.append(record)
                endpoint.running[record[7]] = record
        self._fresh += [record[7] for record in records]
        self._loop.call_soon(self._on_suspended)
        began_ns = self._now_ns()
        try:
            for topic in {record[1] for record in records}:
                await self._link.run(self._fetcher.naming(topic))
            if records:
                await handler.handle_batch(records)
        except BaseException as error:
            self._left(records, error)
        finally:
            for record in records:
                endpoint.running.pop(record[7], None)
        self._flush(self._now_ns() - began_ns, max(1, len(records)))

    async def _await_full(self) -> None:
        """Wait until a whole batch is there, or its first event has waited long enough."""
        due = self._loop.time() + self.handler.within_s
        while len(self.endpoint.pending) < self.handler.size and not self._is_over and self._loop.time() < due:
            await self._arrival(due - self._loop.time())

    def _left(self, records: list[Record], error: BaseException) -> int:
        """A call was left in the middle, or an event could not be read: what becomes of these deliveries.

        Raises:
            BaseException: `error`, if it ends this task. What it had has gone back then, and no attempt is counted.
        """
        if isinstance(error, GeneratorExit):
            raise error  # The task is garbage, its loop has ended: it goes back when this process leaves the bus.
        endpoint, loop = self.endpoint, self._loop
        is_cancelled = loop.current_task().is_cancelled
        was_cancelled = loop.is_cancellation(error)
        is_over = is_cancelled or self._reporter.lost
        ours = (was_cancelled or isinstance(error, (OSError, EventBusError))) and not is_over
        # The end of a loop cancels its tasks, and may take more turns: what goes back at once could begin here again.
        pauses = ours or (is_cancelled and not self._is_over and not loop.is_structured)
        for record in records:
            endpoint.running.pop(record[7], None)
            if self._reporter.lost:
                continue
            if pauses:
                endpoint.note_release(record[7], PAUSE_NS)
            else:
                endpoint.note(record[7], RETURNED)
        if not ours:
            if not self._reporter.lost:
                self._reporter.flush(endpoint)
            raise error
        what = "was cancelled" if was_cancelled else "cannot read an event"
        log_error("%s %s, which goes back to the bus for a while", endpoint.key.name, what, error=error)
        return 0

    # --- reports ---

    def _flush(self, took_ns: int, count: int) -> None:
        if self._concurrency == 1:
            self.endpoint.cost_ns = took_ns // count
            self._reporter.flush(self.endpoint)
        else:
            self._reporter.flush_soon(self.endpoint)
        self._reporter.release_ended()

    def _on_suspended(self) -> None:
        """The loop has a turn: calls that are under way wait for something."""
        self._is_looked_at = False
        endpoint, fresh = self.endpoint, self._fresh
        if self._concurrency > 1:
            endpoint.kept.extend([sequence for sequence in fresh if sequence in endpoint.running])
        fresh.clear()
        try:
            if endpoint.has_news:
                self._reporter.flush_soon(endpoint)
        except (ManagerLost, BusClosed):
            return
        if endpoint.pending:
            self._wake()
