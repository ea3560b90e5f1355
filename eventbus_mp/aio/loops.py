"""The loop that a handle lives in, as the rest of `aio` sees it.

asyncio_loop.py has asyncio's, which uvloop's are as well, and trio_loop.py has trio's. Nothing else knows the
difference. Most names here are those of asyncio, whose loops need nothing in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future as ThreadFuture
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar

__all__ = ["Future", "Loop", "Task", "Timer"]

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
