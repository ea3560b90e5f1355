"""PulledMailbox: what an inbox and a forwarder have in common, where a thread waits: taking what has come, a
descriptor that says when there is some, and going on when the bus was lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.mailbox import Mailbox
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.errors import ManagerLost
from eventbus_mp.lifecycle import FORK_MARK, notice_fork
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.protocol.messages import Record
from eventbus_mp.statistics import SubscriberKey

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["ComesBack", "PulledMailbox"]

T = TypeVar("T")

LOOK_NS = 10_000_000
"""How often to take in what the manager says, although enough is pending: it may call some of that back."""


class ComesBack(Protocol):
    """The handle of an inbox, which has another session when its bus was lost."""

    def _after_loss(self, session: Session, error: ManagerLost) -> Session: ...


class PulledMailbox(Mailbox):
    """Args:
    session: The session that hosts the subscriber; another one when the bus was lost.
    endpoint: Its endpoint there.
    key: The subscriber.
    """

    def __init__(self, session: Session, endpoint: ClientEndpoint, key: SubscriberKey) -> None:
        super().__init__(session, endpoint, key)
        self._event_fd = -1
        self._event_lock = NonReentrantLock()
        self._looked_ns = 0
        self._handle: ComesBack | None = None
        self._subscription: Subscription | None = None

    # --- taking ---

    def _take(self, limit: int, timeout_s: float | None, read: Callable[[Record], T | None]) -> list[T]:
        """Take deliveries, and what `read` makes of them, until there is one."""
        session, now_ns = self._session, self._transport.monotonic_ns
        began_ns = now_ns()
        if not FORK_MARK[0]:
            notice_fork()
        try:
            return self._take_once(limit, timeout_s, read, began_ns)
        except ManagerLost as error:
            self._follow(session, error)
        left_s = None if timeout_s is None else max(0.0, timeout_s - (now_ns() - began_ns) / 1e9)
        return PulledMailbox._take(self, limit, left_s, read)  # Not by `self`: for hooks it is the same call.

    def _take_once(
        self, limit: int, timeout_s: float | None, read: Callable[[Record], T | None], began_ns: int
    ) -> list[T]:
        session, endpoint = self._session, self._endpoint  # In this order: see `_resume`.
        taken: list[T] = []
        now_ns = self._transport.monotonic_ns
        while not taken:
            if len(endpoint.pending) < limit or began_ns - self._looked_ns > LOOK_NS:
                self._look(limit, began_ns)  # Reached again if all that had arrived has expired.
            left_s = None if timeout_s is None else timeout_s - (now_ns() - began_ns) / 1e9
            if not session.connection.wait(lambda: endpoint.pending or self._ended, left_s):
                self._note_look(found=False)
                return []
            self._check_open()
            self._take_arrived(limit, read, taken)
        if limit > 1 and len(taken) == limit and len(endpoint.pending) < limit:
            session.reporter.flush(endpoint)  # What was taken makes room for more, which comes meanwhile.
        self._note_look(found=True)
        return taken

    def _look(self, limit: int, now_ns: int) -> None:
        """Before taking up to `limit`: report, take in what has come, and ask for what is missing.

        Asking costs a round trip. It is not repeated while the manager owes us some: then it has sent all it had.
        """
        session, endpoint = self._session, self._endpoint
        self._looked_ns = now_ns
        if limit > 1 and len(endpoint.pending) < limit and not endpoint.demand:
            session.connection.await_reply(session.reporter.demand(endpoint, limit), "Demand")
        else:
            if not endpoint.pending:
                session.reporter.flush(endpoint)
            if limit > 1 or endpoint.pending:
                session.connection.wait(lambda: len(endpoint.pending) >= limit > 1, 0)
        session.reporter.release_ended()

    # --- a bus that was lost ---

    def _come_back_with(self, handle: ComesBack, subscription: Subscription) -> None:
        """Have this inbox come back with the handle that made it."""
        self._handle, self._subscription = handle, subscription

    def _resume(self, session: Session) -> None:
        """Go on as a mailbox of this session: the bus of the one before was lost."""
        if self._ended or self._session is session or self._subscription is None:
            return
        endpoint = session.host(self.key, self._subscription)
        # The session last: a thread that finds this one does not wait on it for the endpoint of the one before.
        self._transport, self._endpoint, self._session = session.connection.transport, endpoint, session
        if self._event_fd >= 0:
            endpoint.on_arrival = self._ring
            session.start_thread()
            self._ring()

    def _follow(self, session: Session, error: ManagerLost) -> None:
        """The call on `session` has ended with `error`: go on with the handle's next session.

        Raises:
            ManagerLost: `error`, if there is none.
        """
        if self._handle is None:
            raise error
        found = self._handle._after_loss(session, error)
        if self._session is session:
            self._resume(found)

    # --- when to take, and the end ---

    def fileno(self) -> int:
        """A descriptor for select, epoll and asyncio, readable when there is something to take. Do not read from it.

        It is readable while a shadow is waiting, except while shadows that you have taken are unsettled: then only when
        a `get` has found nothing since. So a loop that watches it does not spin while an event is being worked on; and
        if you take until nothing is left, the next arrival wakes you whatever is unsettled.

        It also becomes readable when the inbox has ended or the bus is lost; the next `get` then raises. The first call
        starts a listener thread of this process, which takes in what arrives.
        """
        self._check_open()
        if self._event_fd < 0:
            self._session.start_thread()
            self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._endpoint.on_arrival = self._ring
            self._ring()
        return self._event_fd

    @property
    def _is_due(self) -> bool:
        """Whether the descriptor is to be readable."""
        return self._endpoint.is_due or self._ended or self._session.connection.lost

    def _ring(self) -> None:
        """Make the descriptor readable, if it is to be."""
        if self._event_lock.is_mine:
            return  # A signal handler, in the middle of what follows.
        with self._event_lock.held():  # Or `close` could close it in between, and another file get its number.
            if self._event_fd >= 0 and self._is_due:
                os.eventfd_write(self._event_fd, 1)
        if self._closed:
            self._close_event_fd()  # A signal handler did so just now, and left this to us.

    def _close_event_fd(self) -> None:
        with self._event_lock.held():
            if self._event_fd >= 0:
                os.close(self._event_fd)
                self._event_fd = -1

    def _note_look(self, *, found: bool) -> None:
        """After a look for shadows: have the descriptor say what there is to know beyond it."""
        if self._event_fd < 0 or self._event_lock.is_mine:
            return
        with self._event_lock.held():  # As in `_ring`: another thread may close it.
            self._endpoint.is_at_work = found
            if self._event_fd >= 0:
                _drain_event_fd(self._event_fd)
        if self._is_due:  # Since just before, perhaps.
            self._ring()

    def close(self, *, keep: bool = False) -> None:
        """Hand back what is not settled, and end the subscription unless another process has such an inbox as well.

        Blocks for one round trip. Repeated, it does nothing. The end of the process or of its handle is not such a
        close: the subscriber then stays for `orphan_grace_s`. So it does when an exception leaves the inbox's `with`
        block.

        Args:
            keep: Whether the subscriber stays all the same: its events wait for `orphan_grace_s` for the next inbox.
        """
        if self._closed:
            return
        self._closed = True
        self._endpoint.on_arrival = None
        if not self._session.connection.lost:
            self._session.drop(self._endpoint, ends=not keep)
            self._session.connection.wake()
        if not self._event_lock.is_mine:  # else: a signal handler came in the middle of `_ring`, which does it
            self._close_event_fd()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(keep=kind is not None)


def _drain_event_fd(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return  # It was not set.
