"""asyncio's loop, as `Loop` wants it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from eventbus_mp.aio.loops import Future

__all__ = ["AsyncioLoop", "LoopTask"]

T = TypeVar("T")

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
