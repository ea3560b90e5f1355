"""The locks of a process, which refuse a thread that has them already. The only file that makes locks.

A signal handler, or a `__del__`, runs between any two steps of its thread. When it calls what its thread is in the
middle of, a plain lock waits for ever, and a reentrant one shows it a state that is half changed. So the call is
refused with an error. ARCHITECTURE.md has the table of all locks and the order in which they are taken.

Who holds a lock is noted here and not asked of `threading.RLock`, whose `_is_owned` is private to CPython. An RLock
lies underneath all the same: in the few steps between its acquisition and the note, and between the removal of the note
and its release, nothing is half changed, so a handler that gets in there may take the lock again.

gevent turns threads into greenlets by replacing what `threading` has. A server may load the program before its workers
do that (gunicorn with `--preload`), and what was imported by name then is still the real thing: the real `get_ident` is
the same for all greenlets. So everything here, and what uses it, asks `threading` each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from eventbus_mp.errors import UsageError

__all__ = ["LeaderFollowers", "NonReentrantLock", "PerThread", "reentered"]


def reentered() -> UsageError:
    """The error for a call that came in the middle of another call of the same thread."""
    return UsageError(
        "the bus was called in the middle of another of its calls in this thread, by a signal handler or a __del__, "
        "and would wait for itself; set a flag there, or hand it to another thread"
    )


class NonReentrantLock:
    """A lock that refuses the thread that holds it.

    `with lock.held():` is the plain way. A hot path writes it out, which saves a generator (1 us):

        if lock.owner == threading.get_ident():
            raise reentered()
        with lock.raw:
            lock.owner = threading.get_ident()
            try:
                ...
            finally:
                lock.owner = 0

    Either way an exception that a signal handler raises at any step leaves the lock free: `with` on `raw` is one step
    of the interpreter, and a generator is closed when nobody refers to it any more. A Python `__enter__` and `__exit__`
    could be interrupted before their first line.
    """

    __slots__ = ("owner", "raw")

    def __init__(self) -> None:
        self.raw = threading.RLock()
        """To be entered with `with`, and only as above."""
        self.owner = 0
        """The thread that holds it; 0: none."""

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds it."""
        return self.owner == threading.get_ident()

    def refuse_reentry(self) -> None:
        """Raise `UsageError` if the calling thread holds the lock; does not block."""
        if self.owner == threading.get_ident():
            raise reentered()

    def reset(self) -> None:
        """In a forked child: nobody holds it, for the thread that may have held it does not exist here."""
        self.raw = threading.RLock()
        self.owner = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock in a `with` block; blocks while another thread holds it.

        Raises:
            UsageError: The calling thread holds it already.
        """
        self.refuse_reentry()
        with self.raw:
            self.owner = threading.get_ident()
            try:
                yield
            finally:
                self.owner = 0


class PerThread:
    """What each thread has for itself."""

    def __init__(self) -> None:
        self._values = threading.local()

    @property
    def here(self) -> threading.local:
        """What the calling thread has; its attributes may be anything."""
        if type(self._values) is not threading.local:  # gevent has replaced it since.
            self._values = threading.local()
        return self._values


class LeaderFollowers:
    """Of several threads that wait for one source, one (the leader) waits for it on behalf of all.

    The pattern is Schmidt's Leader/Followers. A follower waits until the leader has looked once and hands over; then it
    looks at its own condition, and may become the leader itself.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._inside = 0
        """The thread that is about to become the leader; 0: none."""
        self.leader = 0
        """The thread that waits for all; 0: none. To step down, store 0, which nothing interrupts; then `hand_over`."""
        self._followers = 0

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the leader, or is about to become it."""
        me = threading.get_ident()
        return self.leader == me or self._inside == me

    def take(self, ready: Callable[[], Any], timeout_s: float | None) -> None:
        """Become the leader; or, if there is one and not `ready()`, wait up to `timeout_s` until it hands over."""
        with self._lock:
            self._inside = threading.get_ident()
            try:
                if not self.leader:
                    self.leader = threading.get_ident()
                elif not ready():
                    self._wait_turn(timeout_s)
            finally:
                self._inside = 0

    def hand_over(self) -> None:
        """The leader has stepped down: wake the followers."""
        with self._lock:
            if self._followers:
                self._condition.notify_all()

    def close(self, end: Callable[[], None]) -> bool:
        """Call `end` when there is no leader; blocks until the present one steps down.

        Returns False when the calling thread is the leader itself: a signal handler came in the middle of its wait.
        Then `end` was not called, and that wait has to call it when it steps down.
        """
        with self._lock:
            if self.leader == threading.get_ident():
                return False
            while self.leader:
                self._wait_turn(None)
            end()
            return True

    def _wait_turn(self, timeout_s: float | None) -> None:
        """With the lock held: wait until the leader hands over."""
        inside, self._inside = self._inside, 0  # The condition gives up the lock while it waits.
        self._followers += 1
        try:
            self._condition.wait(timeout_s)
        finally:
            self._followers -= 1
            self._inside = inside
