"""Following what is registered and subscribed: `EventBus.changes`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from eventbus_mp.client.change_feed import Change, ChangeFeed
from eventbus_mp.client.validation import check_timeout
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.lifecycle import FORK_MARK, notice_fork
from eventbus_mp.locking import NonReentrantLock

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["Changes"]


class _ComesBack(Protocol):
    """The handle that has made this one, which has another session when its bus was lost."""

    def _after_loss(self, session: Session, error: ManagerLost) -> Session: ...


class Changes(ChangeFeed):
    """All topics and subscribers of a bus, and then each change of them. Made by `EventBus.changes`.

    First come those that there are, then "complete", then each change, in the order in which they happened. None is
    missed: if this is more than 10,000 changes behind, or the bus was lost and has come back, "reset" comes, and then
    all that there is. It is for one thread.

    `for change in changes` waits for each next one, and ends when this, or the handle, is closed.
    """

    def __init__(self, handle: _ComesBack, session: Session) -> None:
        super().__init__()
        self._handle = handle
        self._ask(session)
        self._event_fd = -1
        self._event_lock = NonReentrantLock()
        self._is_cut_off = False
        """The thread that took in what arrives has ended."""

    def get(self, timeout_s: float | None = None) -> list[Change]:
        """What has come since the last time; empty if nothing came in time. Blocks until there is something.

        Args:
            timeout_s: Seconds to wait at most; 0: do not wait; None: as long as it takes.

        Raises:
            BusClosed: This, or its bus, was closed.
            ManagerLost: The manager has ended, and the bus with it, and the handle does not come back.
            UsageError: `timeout_s` is not a time.
        """
        timeout_s = check_timeout(timeout_s)
        if not FORK_MARK[0]:
            notice_fork()
        now_ns = self._asked[0].connection.transport.monotonic_ns
        deadline_ns = None if timeout_s is None else now_ns() + int(timeout_s * 1e9)
        while True:
            session = self._asked[0]
            left_s = None if deadline_ns is None else max(0.0, (deadline_ns - now_ns()) / 1e9)
            try:
                self._check_open()
                if not session.connection.wait(lambda: self._has_news, left_s):
                    return []
                changes = self._take()
            except ManagerLost as error:
                self._resume(self._handle._after_loss(session, error))
            else:
                self._note_taken()
                return changes

    def __iter__(self) -> Iterator[Change]:
        while not self._closed:
            try:
                yield from self.get()
            except BusClosed:
                return

    def _resume(self, session: Session) -> None:
        """Go on with this session: the bus of the one before was lost."""
        if self._go_on(session) and self._event_fd >= 0:
            self._is_cut_off = False
            session.start_thread()
            self._watch()

    # --- a descriptor ---

    def fileno(self) -> int:
        """A descriptor for select, epoll and asyncio, readable when `get` has something to return. Do not read from it.

        It is also readable when this was closed, or the bus is lost. The first call starts a listener thread of this
        process, which takes in what arrives.

        Raises:
            BusClosed: This was closed.
        """
        self._check_open()
        if self._event_fd < 0:
            self._asked[0].start_thread()
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._watch()
        return self._event_fd

    def _watch(self) -> None:
        """Ring when the answer comes, or none will."""
        session, request = self._asked
        session.connection.at_end[self._number] = self._note_end
        session.connection.protocol.when_replied(request, self._ring)
        self._ring()  # The answer may have come before.

    @property
    def _is_due(self) -> bool:
        return self._has_news or self._is_cut_off or self._asked[0].connection.lost

    def _note_end(self) -> None:
        self._is_cut_off = True
        self._ring()

    def _ring(self) -> None:
        """Make the descriptor readable, if it is to be."""
        if self._event_lock.is_mine:
            return  # A signal handler, in the middle of what follows.
        with self._event_lock.held():
            if self._event_fd >= 0 and self._is_due:
                os.eventfd_write(self._event_fd, 1)

    def _note_taken(self) -> None:
        if self._event_fd >= 0:
            with self._event_lock.held(), suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
            self._watch()

    def close(self) -> None:
        """Follow no more. Does not block. Repeated, it does nothing. The end of the handle is such a close as well."""
        if self._closed:
            return
        self._closed = True
        session = self._asked[0]
        session.connection.at_end.pop(self._number, None)
        if not session.connection.lost:
            self._stop()
            session.connection.wake()
        if not self._event_lock.is_mine:
            with self._event_lock.held():
                if self._event_fd >= 0:
                    os.close(self._event_fd)
                    self._event_fd = -1

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
