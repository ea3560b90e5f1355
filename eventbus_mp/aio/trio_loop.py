"""trio's loop, as `Loop` wants it. Only what runs under trio imports this.

Here every task has an owner: the block of the handle, which opens a nursery. What watches the pipes and makes calls are
tasks of it as well. They are shielded: in a block that was cancelled, what the user awaits under a shield can still use
the bus. `leave` ends them.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future as ThreadFuture
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, TypeVar

import trio

from eventbus_mp.aio.loops import Future
from eventbus_mp.errors import UsageError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup  # trio has it for these

__all__ = ["TrioLoop"]

T = TypeVar("T")


class _Future:
    """See `Future`."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def done(self) -> bool:
        """See `Future.done`."""
        return self._event.is_set()

    def set_result(self, result: None) -> None:
        """See `Future.set_result`."""
        self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


class _Task:
    """See `Task`. It has a cancel scope of its own."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], on_end: Callable[[Any], object]) -> None:
        self._work = work
        self._on_end = on_end
        self._scope = trio.CancelScope()
        self._was_cancelled = False
        self.ended = trio.Event()

    def cancel(self) -> None:
        """See `Task.cancel`."""
        self._scope.cancel()

    def cancelled(self) -> bool:
        """See `Task.cancelled`."""
        return self._was_cancelled

    @property
    def is_cancelled(self) -> bool:
        """See `Task.is_cancelled`."""
        return trio.current_effective_deadline() == -math.inf

    async def run(self) -> None:
        """Do the work. That it was cancelled is nobody's failure: the block that owns the task knows by itself."""
        try:
            with self._scope:
                await trio.lowlevel.checkpoint_if_cancelled()  # Then it does not begin.
                await self._work()
        except BaseException as error:
            if not _is_only(error, trio.Cancelled):
                raise
            self._was_cancelled = True
        finally:
            self._was_cancelled |= self._scope.cancelled_caught
            self.ended.set()
            self._on_end(self)


class TrioLoop:
    """trio's loop; see `Loop`. Made in a task of trio."""

    is_structured = True

    def __init__(self) -> None:
        self.opening = trio.Lock()
        self._token = trio.lowlevel.current_trio_token()
        self._block: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._scopes: set[trio.CancelScope] = set()
        """Of what is no `_Task`."""
        self._watched: dict[tuple[int, Callable[[int], Awaitable[None]]], trio.CancelScope] = {}
        self._tasks: dict[trio.lowlevel.Task, _Task] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._called = trio.Event()

    time = staticmethod(trio.current_time)
    pause = staticmethod(trio.sleep)
    turn = staticmethod(trio.lowlevel.checkpoint)
    create_future = staticmethod(_Future)

    # --- the block ---

    async def enter(self) -> None:
        """See `Loop.enter`."""
        if self._block is not None:
            raise UsageError("this handle is in an `async with` block already, and under trio that has its tasks")
        self._block = trio.open_nursery()
        self._nursery = await self._block.__aenter__()
        self._start(self._make_calls)

    async def leave(self) -> None:
        """See `Loop.leave`."""
        block, nursery = self._block, self._nursery
        self._block = self._nursery = None
        if block is not None and nursery is not None:
            nursery.cancel_scope.cancel()
            for scope in tuple(self._scopes):
                scope.cancel()
            await block.__aexit__(None, None, None)

    def is_running(self) -> bool:
        """See `Loop`: whether the block is there."""
        return self._nursery is not None

    def is_closed(self) -> bool:
        """See `Loop`: whether the block is over."""
        return self._nursery is None

    def is_here(self) -> bool:
        """See `Loop.is_here`."""
        try:
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    # --- pipes and calls ---

    def _start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> trio.CancelScope:
        """Have a shielded task do this, until it ends or its scope is cancelled."""
        assert self._nursery is not None
        scope = trio.CancelScope(shield=True)
        self._scopes.add(scope)
        self._nursery.start_soon(self._run_shielded, scope, work, *arguments)
        return scope

    # What comes from the pipe must not be left in the middle by Ctrl-C, which trio raises in the main task then.
    @trio.lowlevel.enable_ki_protection
    async def _run_shielded(
        self, scope: trio.CancelScope, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> None:
        try:
            with scope:
                await work(*arguments)
        finally:
            self._scopes.discard(scope)

    def _watch(self, fd: int, wait: Callable[[int], Awaitable[None]], call: Callable[[], object]) -> None:
        self._unwatch(fd, wait)

        async def watch() -> None:
            # The call, or a task that runs between the wait and the call, may end it and close the descriptor.
            while not scope.cancel_called:
                await wait(fd)
                if not scope.cancel_called:
                    call()

        scope = self._watched[fd, wait] = self._start(watch)

    def _unwatch(self, fd: int, wait: Callable[[int], Awaitable[None]]) -> None:
        scope = self._watched.pop((fd, wait), None)
        if scope is not None:
            scope.cancel()

    def add_reader(self, fd: int, call: Callable[[], object]) -> None:
        """See `Loop`."""
        self._watch(fd, trio.lowlevel.wait_readable, call)

    def remove_reader(self, fd: int) -> None:
        """See `Loop`."""
        self._unwatch(fd, trio.lowlevel.wait_readable)

    def add_writer(self, fd: int, call: Callable[[], object]) -> None:
        """See `Loop`."""
        self._watch(fd, trio.lowlevel.wait_writable, call)

    def remove_writer(self, fd: int) -> None:
        """See `Loop`."""
        self._unwatch(fd, trio.lowlevel.wait_writable)

    def call_soon(self, call: Callable[[], object]) -> None:
        """See `Loop`."""
        self._calls.append(call)
        self._called.set()

    async def _make_calls(self) -> None:
        while True:
            await self._called.wait()
            self._called = trio.Event()
            for _ in range(len(self._calls)):
                self._calls.popleft()()

    def call_later(self, delay_s: float, call: Callable[[], object]) -> trio.CancelScope:
        """See `Loop`."""

        async def wait_and_call() -> None:
            await trio.sleep(delay_s)
            if not scope.cancel_called:
                call()

        scope = self._start(wait_and_call)
        return scope

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        """See `Loop`."""
        self._token.run_sync_soon(call)

    # --- tasks ---

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]], name: str, on_end: Callable[[Any], object]) -> _Task:
        """See `Loop.spawn`."""
        assert self._nursery is not None
        task = _Task(work, on_end)

        async def run() -> None:
            me = trio.lowlevel.current_task()
            self._tasks[me] = task
            try:
                await task.run()
            finally:
                del self._tasks[me]

        self._nursery.start_soon(run, name=name)
        return task

    def current_task(self) -> Any:
        """See `Loop.current_task`."""
        return self._tasks.get(trio.lowlevel.current_task())

    async def join(self, tasks: Iterable[Any]) -> None:
        """See `Loop.join`."""
        for task in tasks:
            await task.ended.wait()

    # --- waiting ---

    async def wait(self, future: Future, timeout_s: float | None) -> None:
        """See `Loop.wait`."""
        if timeout_s is None:
            await future
            return
        with trio.move_on_after(max(0.0, timeout_s)):
            await future

    async def in_thread(self, call: Callable[[], T]) -> T:
        """See `Loop.in_thread`."""
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)

    async def result_of(self, future: ThreadFuture[T]) -> T:
        """See `Loop.result_of`."""
        ended = trio.Event()

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):  # It was cancelled, and nobody waits.
                self._token.run_sync_soon(ended.set)

        future.add_done_callback(tell)
        await ended.wait()
        return future.result()

    # --- cancellation ---

    def shielded(self) -> AbstractContextManager[object]:
        """See `Loop.shielded`."""
        return trio.CancelScope(shield=True)

    def is_cancellation(self, error: BaseException) -> bool:
        """See `Loop.is_cancellation`. A nursery of the user's puts it into a group."""
        return _is_only(error, trio.Cancelled)

    def is_interruption(self, error: BaseException) -> bool:
        """See `Loop.is_interruption`."""
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
            return True
        return _is_only(error, (trio.Cancelled, KeyboardInterrupt, GeneratorExit))


def _is_only(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Whether it is one of these, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)
