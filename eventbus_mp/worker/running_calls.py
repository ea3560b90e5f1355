"""What the handlers with a time limit are doing in a worker, where its pool can see it.

    deadline      when the call has to be over, of the clock CLOCK_MONOTONIC, in nanoseconds; 0: it is over
    handler       which one, counted from 1 among those of the worker with a limit; 0: no thread has this place yet
    sequence      the event; 0: a batch

Each thread that has called such a handler has a place of three words.

A handler may hold the GIL for ever, so the pool looks from outside, and nothing in the worker has to run for it. Each
word is written by one thread and read by the pool, without a lock. The deadline is written last: no two calls have
the same one, so a reader that finds the same deadline again has read the words of one call.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import multiprocess.reduction

from eventbus_mp.errors import EventBusError
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.layout import HEADER

__all__ = ["LimitedCall", "RunningCall", "RunningCalls"]

PAGE_BYTES = 1 << 16
CALL_WORDS = 3
CALLS_MAX = PAGE_BYTES // 8 // CALL_WORDS
"""How many threads of a worker are watched. The pages of those that a worker does not have are never touched."""


class RunningCall(NamedTuple):
    """A call that is being made."""

    deadline_ns: int
    handler: int
    """By its place, from 0."""
    sequence: int


class RunningCalls:
    """The page of one worker, which its pool makes and sends along as it starts it."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = os.memfd_create("eventbus_mp-calls", os.MFD_CLOEXEC) if fd is None else fd
        try:
            if fd is None:
                os.ftruncate(self._fd, PAGE_BYTES)
            self._words = memoryview(mmap.mmap(self._fd, PAGE_BYTES)).cast("Q")
        except BaseException:
            self.close()
            raise
        self._local = threading.local()
        self._lock = NonReentrantLock()
        """Held while a thread gets its place."""
        self._count = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """How multiprocess sends it to a process that it starts."""
        return _attached, (multiprocess.reduction.DupFd(self._fd),)

    def close(self) -> None:
        """Close the descriptor; the page stays. Repeated, it does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # --- in the worker ---

    @property
    def words(self) -> memoryview[int]:
        """The page."""
        return self._words

    def place(self) -> int:
        """Where the calling thread's words begin.

        Raises:
            EventBusError: More threads than `CALLS_MAX` have called handlers with a limit.
        """
        try:
            at: int = self._local.at
        except AttributeError:
            with self._lock.held():
                if self._count >= CALLS_MAX:
                    raise EventBusError(
                        f"{CALLS_MAX} threads of this process have called handlers with a time limit; no more are "
                        "watched"
                    ) from None
                at = self._local.at = CALL_WORDS * self._count
                self._words[at + 1] = 1  # Now, or the reader would look no further while this call has not begun.
                self._count += 1
        return at

    # --- in the pool ---

    def running(self) -> list[RunningCall]:
        """The calls that are being made."""
        words, found, at = self._words, [], 0
        while at < CALL_WORDS * CALLS_MAX and words[at + 1]:
            deadline_ns, handler, sequence = words[at : at + CALL_WORDS]
            if deadline_ns and words[at] == deadline_ns:
                found.append(RunningCall(deadline_ns, handler - 1, sequence))
            at += CALL_WORDS
        return found


def _attached(duplicate: Any) -> RunningCalls:
    return RunningCalls(duplicate.detach())


class LimitedCall:
    """A handler's function, of which the pool sees when a call has to be over. Equal if the function is.

    Args:
        calls: Where it is seen.
        handler: By which number the pool knows the handler.
        limit_s: How long a call may take.
        call: The function.
    """

    def __init__(self, calls: RunningCalls, handler: int, limit_s: float, call: Callable[..., Any]) -> None:
        self._calls = calls
        self._words = calls.words
        self._handler = handler
        self._limit_ns = int(limit_s * 1e9)
        self._call = call
        self._pid = os.getpid()

    def __call__(self, item: Any) -> Any:
        words, at = self._words, self._calls.place()
        words[at + 1] = self._handler + 1
        words[at + 2] = 0 if type(item) is list else HEADER.unpack_from(item._payload)[3]
        words[at] = time.monotonic_ns() + self._limit_ns
        try:
            return self._call(item)
        finally:
            if os.getpid() == self._pid:  # else: a process that the handler has forked, and that has its page
                words[at] = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedCall) and self._call == other._call

    def __hash__(self) -> int:
        return hash(self._call)
