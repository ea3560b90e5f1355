"""Inbox: pull instead of push. A mailbox is a subscriber like any other; several processes may share one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.validation import check_timeout
from eventbus_mp.errors import BusClosed, NotSubscribed, UsageError
from eventbus_mp.events import EventShadow
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.statistics import SubscriberKey

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["Inbox"]


class Inbox:
    """The shadows of one subscriber, to be taken when you want them. Made by `EventBus.inbox`; threads may share one.

    Complete or skip every shadow that you have taken, one at a time or in batches; `complete` and `skip` are short for
    `EventBus.mark_as_completed` and `mark_as_skipped`. At most `credit` shadows are unsettled at once: with "auto" two
    at first, and more if they are settled fast. Give a number to take larger batches.

    `for shadow in inbox` waits for each next one, and ends when the inbox is closed.
    """

    def __init__(self, session: Session, endpoint: ClientEndpoint, key: SubscriberKey) -> None:
        self.key = key
        self._session = session
        self._endpoint = endpoint
        self._event_fd = -1
        self._event_lock = NonReentrantLock()
        self._transport = session.connection.transport
        self._closed = False

    def get(self, timeout_s: float | None = None) -> EventShadow | None:
        """Take the next shadow. Blocks until there is one.

        Args:
            timeout_s: Seconds to wait at most; 0: do not wait; None: as long as it takes.

        Returns:
            The shadow, which has to be settled; None if none came in time.

        Raises:
            BusClosed: The inbox, or its bus, was closed.
            ManagerLost: The manager has ended, and the bus with it.
            UsageError: `timeout_s` is not a time.
        """
        shadows = self.get_many(1, timeout_s)
        return shadows[0] if shadows else None

    def get_many(self, limit: int, timeout_s: float | None = None) -> list[EventShadow]:
        """Take up to `limit` shadows. Blocks until there is one, then takes what has arrived.

        Args:
            limit: How many at most; `credit` limits them as well.
            timeout_s: As of `get`.

        Returns:
            The shadows in the order of their arrival; empty if none came in time.

        Raises:
            UsageError: `limit` is not a whole number of 1 or more, or `timeout_s` is not a time.
            BusClosed, ManagerLost: As of `get`.
        """
        if type(limit) is not int or limit < 1:
            raise UsageError(f"get_many({limit!r}) of inbox {self.key.name!r}: give a number of shadows, 1 or more")
        check_timeout(timeout_s)
        endpoint, reporter = self._endpoint, self._session.reporter
        taken: list[EventShadow] = []
        now_ns = self._transport.monotonic_ns
        began_ns = now_ns()
        while not taken:
            if not endpoint.pending:  # This is reached again if all that had arrived has expired.
                reporter.flush(endpoint)
                reporter.release_ended()
            left_s = None if timeout_s is None else timeout_s - (now_ns() - began_ns) / 1e9
            if not self._session.connection.wait(lambda: endpoint.pending or self._ended, left_s):
                self._clear_event_fd()
                return []
            self._check_open()
            while len(taken) < limit and (record := endpoint.take()) is not None:
                shadow = self._shadow(record)
                if shadow is not None:
                    taken.append(shadow)
        self._clear_event_fd()
        return taken

    def _shadow(self, record: Record) -> EventShadow | None:
        """The shadow of a delivery just taken; None when its time is over, or its payload gone: then it is settled."""
        shadow = self._session.fetcher.delivered_shadow(record)
        if shadow is not None and record[6] and record[6] <= self._transport.monotonic_ns():
            self._session.reporter.explain(self._endpoint, shadow.id, "expired")
            self._endpoint.settle(record[7], Outcome.SKIPPED)
            return None
        if shadow is None:
            self._endpoint.settle(record[7], Outcome.FAILED)
        return shadow

    def complete(self, shadow: EventShadow) -> None:
        """Complete a shadow that was taken from here. Does not wait for the manager; repeated, it changes nothing.

        The outcome is reported at once, or together with the next ones while more shadows are waiting here.

        Raises:
            BusClosed, ManagerLost: As of `get`.
            NotSubscribed: The event was not delivered to this inbox's subscriber.
        """
        self._settle(shadow, Outcome.COMPLETED)

    def skip(self, shadow: EventShadow, reason: str = "") -> None:
        """Skip a shadow that was taken from here; else like `complete`. `EventBus.statistics` shows the reason."""
        if self._settle(shadow, Outcome.SKIPPED) and reason:
            self._session.reporter.explain(self._endpoint, shadow.id, reason)

    def _settle(self, shadow: EventShadow, outcome: int) -> bool:
        """Whether it was in flight here."""
        self._check_open()
        place = getattr(shadow, "_place", None)
        if place is None:
            raise NotSubscribed(f"{shadow!r} was not taken from inbox {self.key.name!r}; settle what get() returned")
        if not self._endpoint.settle(place.sequence, outcome):
            self._session.reporter.flush(self._endpoint)
            self._session.mark(self.key, place, outcome)
            return False
        if not self._endpoint.pending:
            self._session.reporter.flush(self._endpoint)
        return True

    def __iter__(self) -> Iterator[EventShadow]:
        while not self._ended:
            try:
                shadow = self.get()
            except BusClosed:
                return
            if shadow is not None:
                yield shadow

    def fileno(self) -> int:
        """A descriptor that is readable while a shadow is waiting: for select, epoll and asyncio. Do not read from it.

        It also becomes readable when the inbox has ended or the bus is lost; the next `get` then raises. The first call
        starts this process's listener thread, which takes in what arrives.
        """
        self._check_open()
        if self._event_fd < 0:
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._endpoint.on_arrival = self._ring
            self._session.start_thread()
            if self._endpoint.pending:
                self._ring()
        return self._event_fd

    def _ring(self) -> None:
        """Make the descriptor readable."""
        if self._event_lock.is_mine:
            return  # A signal handler, in the middle of what follows.
        with self._event_lock.held():  # Or `close` could close it in between, and another file get its number.
            if self._event_fd >= 0:
                os.eventfd_write(self._event_fd, 1)
        if self._closed:
            self._close_event_fd()  # A signal handler did so just now, and left this to us.

    def _close_event_fd(self) -> None:
        with self._event_lock.held():
            if self._event_fd >= 0:
                os.close(self._event_fd)
                self._event_fd = -1

    def _clear_event_fd(self) -> None:
        if self._event_fd >= 0 and not self._endpoint.pending:
            _drain_event_fd(self._event_fd)
            if self._endpoint.pending or self._ended or self._session.connection.lost:  # Since just before, perhaps.
                self._ring()

    @property
    def _ended(self) -> bool:
        return self._closed or self._endpoint.is_over

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed(f"inbox {self.key.name!r} was closed")
        if self._endpoint.is_over:
            raise BusClosed(f"inbox {self.key.name!r} was unsubscribed, or closed through another Inbox of this handle")

    def close(self) -> None:
        """Hand back what is not settled; the subscriber stays for `orphan_grace_s` if no other process hosts it."""
        if self._closed:
            return
        self._closed = True
        self._endpoint.on_arrival = None
        if not self._session.connection.lost:
            self._session.drop(self._endpoint)
            self._session.connection.wake()
        if not self._event_lock.is_mine:  # else: a signal handler came in the middle of `_ring`, which does it
            self._close_event_fd()

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _drain_event_fd(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return  # It was not set.
