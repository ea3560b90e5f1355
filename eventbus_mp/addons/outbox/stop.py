"""A flag that says "stop", and that a wait for a descriptor can wait for as well."""

from __future__ import annotations

import math
import os
import select

__all__ = ["StopFlag"]


class StopFlag:
    """Set once, by any thread or by a signal handler of the process that made it. `close` it in the end."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pid = os.getpid()
        self._is_set = False

    def set(self) -> None:
        """Ask to stop; never blocks. Repeated, after `close`, or in a forked child, it does nothing."""
        # A child has the descriptor of its parent, which would be woken for ever.
        if not self._is_set and self._fd >= 0 and self._pid == os.getpid():
            self._is_set = True
            os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        """Whether it was asked to stop."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Block until it is set, or for so many seconds: whether it is set."""
        if not self._is_set:
            _readable([self._fd], timeout_s)
        return self._is_set

    def wait_for(self, fd: int, timeout_s: float) -> bool:
        """Block until `fd` can be read, until the flag is set, or for so many seconds: whether `fd` can be read."""
        return fd in _readable([self._fd, fd], timeout_s)

    def close(self) -> None:
        """Let go of the descriptor. Repeated, it does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close  # Of who was never started.


def _readable(fds: list[int], timeout_s: float) -> set[int]:
    """Which of them can be read, or have ended. Not by `select`, which takes no descriptor of 1,024 or more."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(math.ceil(max(0.0, timeout_s) * 1_000))}
