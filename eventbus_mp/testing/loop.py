"""An event loop whose time is that of a `TestBus`, and which drives that bus: nothing in it takes time.

When no task has anything to do, the bus takes its next step; when that has none, the clock goes to what is due next, in
the loop or in the bus. So the same program always gives the same run. (trio's `MockClock` with `autojump_threshold` is
the model.) Only what comes from outside, a thread or a descriptor, is waited for in real time.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine
from math import ceil
from typing import Any, Protocol, TypeVar

from eventbus_mp.testing.clock import ManualClock

__all__ = ["TestLoop", "run_to_the_end"]

T = TypeVar("T")

STEPS_MAX = 100_000
"""More than this at one moment has no end."""


class _Driven(Protocol):
    """What the loop needs of its bus (`InProcessBus`)."""

    clock: ManualClock

    def step(self) -> bool: ...

    def jump(self, deadline_ns: int | None) -> bool: ...


class TestLoop(asyncio.SelectorEventLoop):
    """Args:
    world: The bus.
    """

    __test__ = False  # For pytest, which collects classes of this name.

    def __init__(self, world: _Driven) -> None:
        self.world = world
        self.outside = 0
        """How many calls are made by threads at this moment."""
        super().__init__(_Selector(self))

    def time(self) -> float:
        """The time of the bus."""
        return self.world.clock.monotonic_ns() / 1e9

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """See `asyncio.loop.run_in_executor`. Time stands still until the call has ended."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self.outside += 1
        future.add_done_callback(self._came_back)
        return future

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """See `asyncio.loop.shutdown_default_executor`."""
        self.outside += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self.outside -= 1

    def _came_back(self, future: asyncio.Future[Any]) -> None:
        self.outside -= 1


class _Selector(selectors.DefaultSelector):
    """What the loop asks when it has done all that it can: whether there is more."""

    def __init__(self, loop: TestLoop) -> None:
        super().__init__()
        self._loop = loop
        self._steps = 0
        self._at_ns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        world = self._loop.world
        if world.step():
            self._count(world.clock.monotonic_ns())
            return super().select(0)
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self._loop.outside or len(self.get_map()) > 1:  # One descriptor is the loop's own.
            found = super().select(timeout)
            if found or timeout is None:
                return found
        world.jump(None if timeout is None else world.clock.monotonic_ns() + ceil(timeout * 1e9))
        return super().select(0)

    def _count(self, now_ns: int) -> None:
        self._steps, self._at_ns = (self._steps + 1 if now_ns == self._at_ns else 0), now_ns
        if self._steps > STEPS_MAX:
            raise RuntimeError(
                f"after {STEPS_MAX} steps there is still something to do at the same moment: does a handler publish, "
                "or raise Retry, without end?"
            )


def run_to_the_end(loop: AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own, as `asyncio.run` does: then what is left is cancelled, and the loop is closed."""
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
