"""`TestBus`: a whole bus in the thread of a test."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

from eventbus_mp import aio
from eventbus_mp.arguments import as_int
from eventbus_mp.client import sessions
from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.hooks import Hooks, InstrumentSource
from eventbus_mp.client.session import Session
from eventbus_mp.client.validation import check_delay
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import BusClosed, UsageError
from eventbus_mp.events import Event
from eventbus_mp.testing.clock import ManualClock
from eventbus_mp.testing.inprocess import SETTINGS, InProcessBus
from eventbus_mp.testing.loop import TestLoop, run_to_the_end
from eventbus_mp.testing.recorder import Failure, ProcessDied, Recorder
from eventbus_mp.worker.pool import WorkerPool

__all__ = ["TestBus"]

T = TypeVar("T")


class TestBus(EventBus):
    """A bus for your tests: the manager, its memory and every process are in the thread of the test.

    It is the real core with the real client, and an `EventBus` itself. What differs: nothing happens by itself.
    Handlers run in `deliver_all`, in `advance`, and in whatever call waits (`drain`, `notify_and_wait`, an inbox's
    `get`), always in the same order. Time stands still until `advance` moves it, or a call waits for something that is
    due later, which takes no time. A wait that nothing can end raises `RuntimeError`.

    From the moment that it is made until `close`, every `EventBus` of its name in this process is a client of it, as a
    process of its own would be: those that exist already, with what they have subscribed, and those that are made
    meanwhile. So a program that has `bus = EventBus("shop")` somewhere is tested with `TestBus("shop")`, and nothing is
    passed to it. Afterwards its handles are what they were before.

    It is used by the thread that makes it; other threads and processes get `UsageError`.

    Args:
        name: The bus.
        topics: As for `EventBus`.
        require: As for `EventBus`.
        instruments: As for `EventBus`, of this handle.
        settings: Single fields of `BusConfig`. Unless they say otherwise, memory is 16 MiB.

    Raises:
        UsageError: As `EventBus`.
    """

    __test__ = False  # For pytest, which collects classes of this name.

    def __init__(
        self,
        name: str = "test",
        topics: Iterable[str] = (),
        *,
        require: Iterable[str] = (),
        instruments: Iterable[InstrumentSource] = (),
        **settings: Any,
    ) -> None:
        config = BusConfig.from_environment(**{**SETTINGS, **settings})
        self._world = InProcessBus(name, config=config, clock=ManualClock(time.time_ns()))
        super().__init__(name, topics, config=config, require=require, instruments=instruments)
        self._recorder = Recorder()
        self._standing_in = ExitStack()
        self._standing_in.enter_context(sessions.standing_in(name, self._open_session))
        self.topics()  # Connects: the topics are there for every other handle.

    def _open_session(self, bus: str, config: BusConfig, hooks: Hooks | None, **how: Any) -> Session:
        hooks = hooks or Hooks(())
        hooks.add(self._recorder)
        return self._world.open(bus, config, hooks, **how)

    def __enter__(self) -> TestBus:
        return self

    def close(self) -> None:
        """End the bus. The other handles of its name are what they were before. Repeated, it does nothing."""
        super().close()
        self._standing_in.close()
        self._world.run()

    # --- what happens, and when ---

    @property
    def clock(self) -> ManualClock:
        """The time of this bus."""
        return self._world.clock

    def deliver_all(self, *, raise_errors: bool = True) -> None:
        """Run handlers until nothing is left to do at this moment; no time passes.

        What is to be tried again later (`Retry`, a delay between attempts), or waits for a whole batch, is left.

        Args:
            raise_errors: Whether to raise, at the end, the first error that a handler has raised meanwhile. Otherwise
                it is only logged, as on a real bus, and is in `failures`.

        Raises:
            Exception: What the handler raised.
        """
        seen = len(self.failures)
        self._world.run()
        self._raise_failure(seen, raise_errors)

    def advance(self, seconds: float, *, raise_errors: bool = True) -> None:
        """Let time pass, and do in its order all that is due meanwhile: attempts, expiry, batches, graces.

        Args:
            seconds: How long.
            raise_errors: As of `deliver_all`.

        Raises:
            UsageError: It is not a time; time does not go back.
            Exception: What a handler raised.
        """
        seconds = check_delay("advance: seconds", seconds)
        seen = len(self.failures)
        deadline_ns = self.clock.monotonic_ns() + int(seconds * 1e9)
        self._world.run()
        while self._world.jump(deadline_ns):
            self._world.run()
        self._world.run()
        self._raise_failure(seen, raise_errors)

    def run(self, main: Coroutine[Any, Any, T], *, raise_errors: bool = True) -> T:
        """Run a coroutine, in place of `asyncio.run`: every `aio.EventBus` of this bus's name is a client of it there.

        What such handles of your program have been decorated with is subscribed first. No time passes but in the
        clock of this bus, which the event loop has as well: `asyncio.sleep(60)` takes no time, and its order among
        all else is always the same. Time stands still while a thread is awaited.

        In the coroutine, wait by calls that are awaited (`await handle.drain()`). `deliver_all` and `advance` go on as
        far as they can without it.

        Args:
            main: The coroutine.
            raise_errors: As of `deliver_all`.

        Returns:
            What the coroutine has returned.

        Raises:
            UsageError: It is not a coroutine.
            RuntimeError: It waits for something that cannot happen.
            Exception: What it, or a handler, has raised.
        """
        if not isinstance(main, Coroutine):
            raise UsageError(f"run({main!r:.80}): give a coroutine, which is what a coroutine function returns")
        seen = len(self.failures)

        async def whole() -> T:
            for handle in self._loop_handles():
                if handle._specs:
                    await handle.connect()
            return await main

        try:
            result = run_to_the_end(TestLoop(self._world), whole())
        finally:
            main.close()  # It may not have begun.
            for handle in self._loop_handles():
                handle._leave_loop()
            self._world.run()
        self._raise_failure(seen, raise_errors)
        return result

    def _loop_handles(self) -> list[aio.EventBus]:
        return [handle for handle in sessions.handles_of(self.name) if isinstance(handle, aio.EventBus)]

    def _raise_failure(self, seen: int, raise_errors: bool) -> None:
        if raise_errors and len(self.failures) > seen:
            raise self.failures[seen].error

    # --- what has happened ---

    @property
    def notified(self) -> list[Event]:
        """Every event that was published on this bus, by any handle, in order; also those that nobody wanted."""
        return self._recorder.notified

    @property
    def failures(self) -> list[Failure]:
        """Every call of a handler that raised something else than `Skip` and `Retry`, in order."""
        return self._recorder.failures

    def assert_notified(self, topic: str, *, times: int | None = None, **fields: Any) -> list[Event]:
        """Assert that events of this topic were published, and return them.

        Args:
            topic: Their topic.
            times: How many; None: at least one.
            fields: Fields of `Event` with the values that these have to have: `data={"total": 12}`.

        Raises:
            AssertionError: There are none, or not so many; the text has what was published.
            UsageError: An event has no such field, or `times` is not a number.
        """
        count = as_int(times)
        if times is not None and (count is None or count < 0):
            raise UsageError(f"assert_notified(times={times!r}): give a number of events, or None for at least one")
        unknown = [name for name in fields if not isinstance(getattr(Event, name, None), property)]
        if unknown:
            raise UsageError(f"assert_notified: an event has no field {unknown[0]!r}")
        found = self._recorder.matching(topic, fields)
        if len(found) == times or (times is None and found):
            return found
        wanted = "at least one event" if times is None else f"{times} events"
        details = "".join(f", {name}={value!r}" for name, value in fields.items())
        published = "".join(f"\n  {event!r}" for event in self.notified) or " nothing"
        raise AssertionError(
            f"{wanted} of topic {topic!r}{details} expected, {len(found)} were published. Published was:{published}"
        )

    # --- other processes ---

    def process(self) -> EventBus:
        """Another process of the bus: a handle with a client of its own, to subscribe handlers on and to `kill`.

        It is an `EventBus`. An `aio.EventBus` in the coroutine of `run` is a client of its own as it is.

        Raises:
            BusClosed: This bus was closed; a handle of its name would start a real one.
        """
        if self._closed:
            raise BusClosed(f"TestBus {self.name!r} was closed; make another one")
        handle = EventBus(self.name, config=self.config)
        handle.topics()
        return handle

    def run_pool(self, pool: WorkerPool, processes: int = 1) -> list[EventBus]:
        """Let a pool's handlers run on this bus, in place of `pool.start()`: what its workers would be.

        Args:
            pool: A pool that is not started; its handlers run here, its initializer does not.
            processes: How many workers.

        Returns:
            The handle of each, to `kill`.

        Raises:
            UsageError: It is not a pool, or `processes` is not a number of 1 or more.
        """
        count = as_int(processes)
        if not isinstance(pool, WorkerPool) or count is None or count < 1:
            raise UsageError(
                f"run_pool({pool!r:.80}, processes={processes!r}): give a WorkerPool, and a number from 1 on"
            )
        workers = [self.process() for _ in range(count)]
        for worker in workers:
            for spec in pool.specs:
                worker._host(spec)
        return workers

    # --- faults ---

    def kill(self, process: EventBus) -> None:
        """A process dies, as by SIGKILL: what it had goes to others, and its handle raises `BusClosed` from now on.

        In the middle of one of its handlers, it dies there: the event that was being handled comes again.

        Args:
            process: What `process` or `run_pool` has returned, or another handle of the bus's name.

        Raises:
            ProcessDied: This call was made by a handler of that process.
            UsageError: It is this bus itself, or no client of it; or it is an `aio.EventBus`, which shares the loop of
                `run` with the others.
        """
        if isinstance(process, aio.EventBus):
            raise UsageError(
                f"kill({process!r}): the handles of asyncio share one loop, and none of them can die alone; give a "
                "handle that `process` or `run_pool` has returned"
            )
        session = process._session if isinstance(process, EventBus) else None
        if process is self or session is None or session not in self._world.sessions:
            raise UsageError(f"kill({process!r}): give another handle of bus {self.name!r}, one that is connected")
        self._world.kill(session)
        sessions.let_go(session)
        process._session = None
        process.close()
        if self._world.is_running(session):
            raise ProcessDied("the test has killed this process here")

    def replace_manager(self) -> None:
        """The manager dies, and its standby goes on. Nothing is lost by it, and nothing comes twice."""
        self._world.replace_manager()

    def memory_full(self) -> AbstractContextManager[None]:
        """Within the `with` block, memory is full: `notify` waits `notify_timeout_s`, which takes no time here, and
        raises `BusFull`."""
        return self._world.full_memory()
