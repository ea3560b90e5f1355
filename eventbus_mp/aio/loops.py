"""The loop that a handle lives in: what the rest of `aio` needs of one, and how asyncio's does it.

uvloop's loops are asyncio's. Those of trio are in trio_loop.py; nothing else knows which one it has.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future as ThreadFuture
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

__all__ = ["AsyncioLoop", "Future", "Loop", "LoopTask", "Task", "Timer", "running_loop"]

T = TypeVar("T")


class Future(Protocol):
    """What one task awaits until something sets it."""

    def done(self) -> bool:
        """Whether it is set."""

    def set_result(self, result: None, /) -> object:
        """Set it."""

    def __await__(self) -> Generator[Any, Any, None]: ...


class Timer(Protocol):
    """A call that is going to be made."""

    def cancel(self) -> object:
        """Do not make it."""


class Task(Protocol):
    """A task of ours."""

    def cancel(self) -> object:
        """Have `Loop.is_cancellation` arrive where it waits."""

    def cancelled(self) -> bool:
        """Whether it has ended because it was cancelled."""

    @property
    def is_cancelled(self) -> bool:
        """Asked in the task: whether somebody has cancelled it, and not only something that it waits for."""


class Loop(Protocol):
    """What runs tasks, watches pipes and makes calls."""

    is_structured: bool
    """Whether tasks live in the `async with` block of their handle: there is none before it, and when it is left, all
    are cancelled for good. Otherwise they live in the loop, and a cancelled one may be followed by another."""

    @property
    def opening(self) -> AbstractAsyncContextManager[None]:
        """Held while one task connects or subscribes for all."""

    # The names of these are asyncio's, and what they do is what it says of them.

    def add_reader(self, fd: int, call: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...

    def add_writer(self, fd: int, call: Callable[[], object], /) -> object: ...

    def remove_writer(self, fd: int, /) -> object: ...

    def call_soon(self, call: Callable[[], object], /) -> object: ...

    def call_later(self, delay_s: float, call: Callable[[], object], /) -> Timer: ...

    def call_soon_threadsafe(self, call: Callable[[], object], /) -> object: ...

    def create_future(self) -> Future: ...

    def time(self) -> float: ...

    def is_running(self) -> bool: ...

    def is_closed(self) -> bool: ...

    # These are ours.

    def is_here(self) -> bool:
        """Whether the caller runs in this loop."""

    async def enter(self) -> None:
        """The block of a handle begins.

        Raises:
            UsageError: It has begun already.
        """

    async def leave(self) -> None:
        """The block ends, and with it what is left of its tasks. Repeated, it does nothing."""

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]], name: str, on_end: Callable[[Any], object]) -> Task:
        """Make a task; `on_end` is called with it when it has ended."""

    def current_task(self) -> Any:
        """The `Task` that calls, if `spawn` has made it; else anything that is none of these."""

    async def join(self, tasks: Iterable[Any]) -> None:
        """Wait until these tasks, of which there is one at least, have ended."""

    async def wait(self, future: Future, timeout_s: float | None) -> None:
        """Wait until the future is set, or the time is over."""

    async def pause(self, seconds: float) -> None:
        """Wait for some time."""

    async def turn(self) -> None:
        """Let the loop do its other work."""

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Make a call that blocks in a thread of the loop's; one that is cancelled is left alone there."""

    def result_of(self, future: ThreadFuture[T], /) -> Awaitable[T]:
        """Wait for what a thread has been asked for."""

    def shielded(self) -> AbstractContextManager[object]:
        """In its block, a task that was cancelled can wait for what has to be done all the same."""

    def is_cancellation(self, error: BaseException) -> bool:
        """Whether this was raised because a task, or what it waits for, was cancelled."""

    def is_interruption(self, error: BaseException) -> bool:
        """Whether this ends the task in which it is raised, and says nothing of the code that it comes from."""


if sys.version_info >= (3, 11):

    class LoopTask(asyncio.Task[None]):
        """See `Task`."""

        @property
        def is_cancelled(self) -> bool:
            """See `Task.is_cancelled`."""
            return self.cancelling() > 0

else:

    class LoopTask(asyncio.Task[None]):
        """See `Task`."""

        is_cancelled = False

        def cancel(self, msg: Any = None) -> bool:
            """See `asyncio.Task.cancel`."""
            self.is_cancelled = True
            return super().cancel(msg)


class AsyncioLoop:
    """asyncio's loop; see `Loop`. What is called often is the loop's own method."""

    is_structured = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.opening = asyncio.Lock()
        self.add_reader, self.remove_reader = loop.add_reader, loop.remove_reader
        self.add_writer, self.remove_writer = loop.add_writer, loop.remove_writer
        self.call_soon, self.call_soon_threadsafe = loop.call_soon, loop.call_soon_threadsafe
        self.call_later, self.time = loop.call_later, loop.time
        self.is_running, self.is_closed = loop.is_running, loop.is_closed
        self.create_future: Callable[[], asyncio.Future[None]] = loop.create_future

    current_task = staticmethod(asyncio.current_task)
    pause = staticmethod(asyncio.sleep)
    result_of = staticmethod(asyncio.wrap_future)

    def is_here(self) -> bool:
        """See `Loop.is_here`."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    async def enter(self) -> None:
        """See `Loop.enter`. Tasks of asyncio need no block."""

    async def leave(self) -> None:
        """See `Loop.leave`."""

    def spawn(
        self, work: Callable[[], Coroutine[Any, Any, None]], name: str, on_end: Callable[[Any], object]
    ) -> LoopTask:
        """See `Loop.spawn`."""
        task = LoopTask(work(), loop=self._loop, name=name)
        task.add_done_callback(on_end)
        return task

    async def join(self, tasks: Iterable[Any]) -> None:
        """See `Loop.join`."""
        await asyncio.wait(tasks)

    async def wait(self, future: Future, timeout_s: float | None) -> None:
        """See `Loop.wait`."""
        if timeout_s is None:
            await future
            return
        timer = self.call_later(max(0.0, timeout_s), _set, future)
        try:
            await future
        finally:
            timer.cancel()

    async def turn(self) -> None:
        """See `Loop.turn`."""
        await asyncio.sleep(0)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """See `Loop.in_thread`."""
        return await self._loop.run_in_executor(None, call)

    def shielded(self) -> AbstractContextManager[object]:
        """See `Loop.shielded`. A cancellation arrives once, so nothing is in the way of what is awaited next."""
        return nullcontext()

    def is_cancellation(self, error: BaseException) -> bool:
        """See `Loop.is_cancellation`."""
        return isinstance(error, asyncio.CancelledError)

    def is_interruption(self, error: BaseException) -> bool:
        """See `Loop.is_interruption`."""
        return isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit))


def _set(future: Future) -> None:
    if not future.done():
        future.set_result(None)


def running_loop() -> Loop:
    """The loop that the caller runs in.

    Raises:
        RuntimeError: It runs in none.
    """
    trio = sys.modules.get("trio")
    # First: a trio that is the guest of another loop runs inside that one.
    if trio is not None and trio.lowlevel.in_trio_task():
        from eventbus_mp.aio.trio_loop import TrioLoop

        return TrioLoop()
    return AsyncioLoop(asyncio.get_running_loop())
