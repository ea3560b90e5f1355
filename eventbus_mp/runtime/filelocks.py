"""The two file locks of a bus: one while a manager is started, one as long as it lives.

The first one is taken in users' processes, which may fork in many threads at once. filelock 4 refuses that to any
process that has imported it. So it is imported by those only that take the second lock: managers, and `clean`.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["held_for_life", "held_while_starting"]

RETRY_S = 0.02
"""The kernel has no lock of a file that is waited for up to a time: whoever has to wait asks again."""

_held: set[int] = set()


@contextmanager
def held_while_starting(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of this file, which is made if need be; blocks for at most `timeout_s`.

    Raises:
        TimeoutError: Somebody else has had it all the time.
        FileNotFoundError: There is no such directory.
    """
    fd = _acquire(path, time.monotonic() + timeout_s)
    _held.add(fd)
    try:
        yield
    finally:
        _held.discard(fd)
        # Closing alone would not do: a child that another thread forked meanwhile may have a copy.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _acquire(path: Path, deadline: float) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _is_ours(fd):
            return fd
        os.close(fd)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} has been locked all the time")
        select.select((), (), (), RETRY_S)


def _is_ours(fd: int) -> bool:
    """Whether it could be locked, and the file is still there: a lock on one that was removed counts for nothing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _let_go_in_child() -> None:
    """A forked child has copies, which would keep the locks of a parent that is killed."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def held_for_life(path: Path, timeout_s: float) -> BaseFileLock:
    """The lock that says that a manager lives, to be acquired; `TimeoutError` then says that one does."""
    from filelock import FileLock

    return FileLock(path, timeout=timeout_s)
