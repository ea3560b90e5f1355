"""A call that is made a little later, by a thread of its own: for what must not wait until somebody comes by."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable

from eventbus_mp.background import BackgroundThread
from eventbus_mp.errors import EventBusError
from eventbus_mp.locking import NonReentrantLock

__all__ = ["LateCall"]

log = logging.getLogger("eventbus_mp")


class LateCall:
    """Calls a function once, some time after it was asked to. Its thread starts with the first time, and sleeps until
    the next.

    Args:
        call: What to call. When it raises an `EventBusError`, the link has ended, and so does the thread.
        delay_s: How long after `arm`.
    """

    def __init__(self, call: Callable[[], object], delay_s: float) -> None:
        self._call = call
        self._delay_ms = delay_s * 1e3
        self.is_armed = False
        """A call is due; asking again changes nothing."""
        self._thread = BackgroundThread(self._run, "eventbus_mp-late")
        self._lock = NonReentrantLock()
        self._fd = -1
        """Written to when something is due, and at the end."""
        self._is_over = False

    def arm(self) -> None:
        """Call it after the delay, if no call is due. Never blocks."""
        if self.is_armed or self._lock.is_mine:
            return  # A signal handler, in the middle of what follows, which arms it.
        self.is_armed = True
        try:
            with self._lock.held():
                if not self._is_over:
                    if self._fd < 0:
                        self._fd = os.eventfd(0, os.EFD_CLOEXEC)
                    self._thread.start()
                    os.eventfd_write(self._fd, 1)
        except BaseException:  # A signal handler has raised: nothing may be due, so it can be armed again.
            self.is_armed = False
            raise

    def _run(self) -> None:
        asleep, due = select.poll(), select.poll()  # The first is of nothing: it ends with its timeout.
        due.register(self._fd, select.POLLIN)
        while True:
            due.poll()  # Under gevent a wait for the descriptor itself would stop all threads.
            if self._is_over:
                return
            os.eventfd_read(self._fd)
            asleep.poll(self._delay_ms)
            self.is_armed = False  # First: what is noted from now on may be too late for this call.
            try:
                self._call()
            except EventBusError as error:
                log.debug("nothing is reported any more: %s", error)
                return

    def close(self) -> None:
        """End the thread; blocks while it makes the call. Harmless when repeated."""
        if self._lock.is_mine:
            return  # A signal handler in the middle of `arm`: the thread is a daemon.
        with self._lock.held():
            is_over, self._is_over = self._is_over, True
            if is_over or self._fd < 0:
                return
            os.eventfd_write(self._fd, 1)
        if not self._thread.is_mine:
            self._thread.join()
            self._close_fd()

    def abandon(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._is_over = True
        self._close_fd()

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
