"""Locks that a thread must not take twice.

A signal's handler, or a `__del__`, runs between any two steps of its thread. When that calls what its thread is in the
middle of, a plain lock waits for ever, and a reentrant one lets it see what is half done. So it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from eventbus_mp.errors import UsageError

__all__ = ["NonReentrantLock", "LeaderFollowers", "owns", "reentered"]


def reentered() -> UsageError:
    """What a call within a call gets."""
    return UsageError(
        "the bus was called in the middle of another of its calls in this thread, by a signal's handler or a __del__, "
        "and would wait for itself; set a flag there, or hand it to another thread"
    )


def owns(lock: threading.RLock) -> bool:  # type: ignore[valid-type,unused-ignore]
    """Whether the calling thread has it."""
    return bool(lock._is_owned())  # type: ignore[attr-defined]


class NonReentrantLock:
    """A lock that refuses whoever has it already.

    Raises:
        UsageError: On entering it again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if owns(self._lock):
            raise reentered()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


class LeaderFollowers:
    """Of several threads that wait for one thing, one looks for all; the others stand by until it has looked once."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._condition = threading.Condition(self.lock)
        self.holder = 0
        """The thread whose turn it is; 0: nobody's. To end it, store 0, which nothing interrupts; then `pass_on`."""
        self._bystanders = 0

    @property
    def is_mine(self) -> bool:
        """Whether it is the calling thread's turn, or it is about to take it."""
        return self.holder == threading.get_ident() or owns(self.lock)

    def take(self, ready: Callable[[], Any], timeout_s: float | None) -> None:
        """Take the turn; or, unless it is `ready` by now, stand by up to so long, until whoever has it passes it on."""
        with self.lock:
            if self.holder:
                if not ready():
                    self.wait_turn(timeout_s)
            else:
                self.holder = threading.get_ident()

    def wait_turn(self, timeout_s: float | None = None) -> None:
        """Under the lock: wait until a turn ends."""
        self._bystanders += 1
        try:
            self._condition.wait(timeout_s)
        finally:
            self._bystanders -= 1

    def hand_over(self) -> None:
        """The turn is over: whoever stands by looks for itself."""
        with self.lock:
            if self._bystanders:
                self._condition.notify_all()
