"""The two file locks of a bus: one is held while a manager is started, the other as long as it lives.

Users' processes take the first one, and may fork in many threads at once. filelock 4 refuses that to every process that
has imported it, so only the processes that take the second lock import it: managers, and `eventbus-mp clean`.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from eventbus_mp.lifecycle import ForkStage, after_fork_in_child

__all__ = ["LifeLock", "held_for_life", "held_while_starting"]

RETRY_S = 0.02
"""The kernel cannot wait for a file's lock for a limited time, so a process that has to wait asks again and again."""

_held: set[int] = set()


@contextmanager
def held_while_starting(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of this file, which is created if it is not there; blocks for at most `timeout_s` seconds.

    Raises:
        TimeoutError: Another process held it all the time.
        FileNotFoundError: The file's directory does not exist.
    """
    fd = _acquire(path, time.monotonic() + timeout_s)
    _held.add(fd)
    try:
        yield
    finally:
        _held.discard(fd)
        # Closing alone would not release it: a child that another thread forked meanwhile may have a copy.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _acquire(path: Path, deadline: float) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _is_ours(fd):
            return fd
        os.close(fd)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} has been locked by another process all the time")
        select.select((), (), (), RETRY_S)


def _is_ours(fd: int) -> bool:
    """Whether it could be locked and the file still exists: the lock of a file that was removed excludes nobody."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _close_in_child() -> None:
    """Close a forked child's copies, which would keep the locks of a parent that is killed."""
    for fd in _held:
        os.close(fd)
    _held.clear()


after_fork_in_child(ForkStage.FILE_LOCKS, _close_in_child)


class LifeLock(Protocol):
    """The lock that a manager holds for its life."""

    def __enter__(self) -> object:
        """Like `acquire`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Like `release`."""

    def acquire(self) -> object:
        """Block until it is held, up to the timeout.

        Raises:
            TimeoutError: A manager lives.
        """

    def release(self) -> None:
        """Give it up. The end of the process gives it up as well, however it comes."""


def held_for_life(path: Path, timeout_s: float) -> LifeLock:
    """The lock that proves that a manager lives, not acquired yet."""
    from filelock import FileLock

    return FileLock(path, timeout=timeout_s)
