"""A flag that says "stop", and that a wait for a descriptor can wait for as well."""

from __future__ import annotations

import os
import select

__all__ = ["StopFlag"]


class StopFlag:
    """Set once, by any thread or by a signal handler. `close` it in the end."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_set = False

    def set(self) -> None:
        """Ask to stop; never blocks. Repeated, or after `close`, it does nothing more."""
        if not self._is_set and self._fd >= 0:
            self._is_set = True
            os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        """Whether it was asked to stop."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Block until it is set, or for so many seconds: whether it is set."""
        if not self._is_set:
            select.select([self._fd], [], [], timeout_s)
        return self._is_set

    def wait_for(self, fd: int, timeout_s: float) -> bool:
        """Block until `fd` can be read, until the flag is set, or for so many seconds: whether `fd` can be read."""
        readable, _, _ = select.select([self._fd, fd], [], [], timeout_s)
        return fd in readable

    def close(self) -> None:
        """Let go of the descriptor. Repeated, it does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
