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

__all__ = ["Follower", "LeaderFollowers", "NonReentrantLock", "PerThread", "reentered"]


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


class Follower:
    """A thread that waits for its turn.

    Args:
        ready: What it waits for.
        crew: As in `LeaderFollowers.take`.
        lock: The one that guards all this.
    """

    __slots__ = ("condition", "crew", "ready")

    def __init__(self, ready: Callable[[], Any], crew: object, lock: threading.RLock) -> None:
        self.ready = ready
        self.crew = crew
        self.condition = threading.Condition(lock)


class LeaderFollowers:
    """Of several threads that wait for one source, one (the leader) waits for it on behalf of all.

    The pattern is Schmidt's Leader/Followers. A follower waits until it is woken; then it looks at its own condition,
    and may become the leader itself.

    The leader hands over after each look, and wakes those whose conditions are true by then: waking all of them costs
    10 us for each. It mostly goes on as the leader. When it does not, it wakes one that goes on: `pass_on`. So a thread
    is always awake that will lead, or pass on, as long as somebody waits and nobody leads. A thread that was woken
    counts as one, and so does one whose time is over: a thread that comes back from `take` calls `pass_on` at its end.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = 0
        """The thread that is about to become the leader; 0: none."""
        self.leader = 0
        """The thread that waits for all; 0: none. To step down, store 0, which nothing interrupts; then `hand_over`."""
        self.followers: dict[Follower, None] = {}
        """Who waits, and was not woken."""

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the leader, or is about to become it."""
        me = threading.get_ident()
        return self.leader == me or self._inside == me

    def take(self, ready: Callable[[], Any], timeout_s: float | None, crew: object = None) -> None:
        """Become the leader; or, if there is one and not `ready()`, wait up to `timeout_s` until this thread is woken.

        Args:
            ready: Whether the thread need not wait. The leader asks it too, so any thread may.
            timeout_s: None: for ever.
            crew: Equal for threads that wait for the same. Then `ready()` is a number: how many of them it is
                enough for.
        """
        with self._lock:
            self._inside = threading.get_ident()
            try:
                if not self.leader:
                    self.leader = threading.get_ident()
                elif not ready():
                    self._wait_turn(Follower(ready, crew, self._lock), timeout_s)
            finally:
                self._inside = 0

    def hand_over(self, ready: Callable[[], Any] | None = None, crew: object = None) -> None:
        """The leader, which waits for `ready` itself, has stepped down: wake those that need not wait any longer.

        None: wake all.
        """
        with self._lock:
            if not self.followers:
                return
            if ready is None:
                for follower in tuple(self.followers):
                    self._wake(follower)
                return
            awake = {crew: min(1, _wanted(ready))}
            for follower in tuple(self.followers):
                if follower.crew is None:
                    awake[None] = 0
                if _wanted(follower.ready) > awake.setdefault(follower.crew, 0):
                    awake[follower.crew] += 1
                    self._wake(follower)

    def pass_on(self) -> None:
        """The calling thread waits no more: if nobody leads, wake one that does, the last that has come."""
        with self._lock:
            if self.followers and not self.leader:
                self._wake(next(reversed(self.followers)))

    def close(self, end: Callable[[], None]) -> bool:
        """Call `end` when there is no leader; blocks until the present one steps down.

        Returns False when the calling thread is the leader itself: a signal handler came in the middle of its wait.
        Then `end` was not called, and that wait has to call it when it steps down.
        """
        with self._lock:
            if self.leader == threading.get_ident():
                return False
            while self.leader:
                self._wait_turn(Follower(lambda: not self.leader, None, self._lock), None)
            end()
            self.pass_on()
            return True

    def _wake(self, follower: Follower) -> None:
        if follower in self.followers:  # else: a signal handler has woken it meanwhile
            del self.followers[follower]
            follower.condition.notify()

    def _wait_turn(self, follower: Follower, timeout_s: float | None) -> None:
        """With the lock held: wait until this thread is woken."""
        inside, self._inside = self._inside, 0  # The condition gives up the lock while it waits.
        self.followers[follower] = None
        try:
            follower.condition.wait(timeout_s)
        finally:
            self.followers.pop(follower, None)
            self._inside = inside


def _wanted(ready: Callable[[], Any]) -> int:
    """How many threads the condition is true for. If it raises, the thread that waits for it has to see that."""
    try:
        found = ready()
    except Exception:
        return 1
    return found if type(found) is int else bool(found)
