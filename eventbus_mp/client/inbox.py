"""Inbox: pull instead of push. A mailbox is a subscriber like any other; several processes may share one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.mailbox import Mailbox
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.client.unclaimed import UnclaimedShadow, is_in_executor
from eventbus_mp.client.validation import check_delay, check_shadows, check_timeout
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.lifecycle import FORK_MARK, notice_fork
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.statistics import SubscriberKey

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["ComesBack", "Inbox"]

T = TypeVar("T")

LOOK_NS = 10_000_000
"""How often to take in what the manager says, although enough is pending: it may call some of that back."""


class ComesBack(Protocol):
    """The handle of an inbox, which has another session when its bus was lost."""

    def _after_loss(self, session: Session, error: ManagerLost) -> Session: ...


class Inbox(Mailbox):
    """The shadows of one subscriber, to be taken when you want them. Made by `EventBus.inbox`; threads may share one.

    Complete or skip every shadow that you have taken, one at a time or in batches; `complete` and `skip` are short for
    `EventBus.mark_as_completed` and `mark_as_skipped`. With the credit "auto" you can take as many as `credit_max` of
    the bus before you settle the first. With a number, at most so many are unsettled at once.

    `for shadow in inbox` waits for each next one, and ends when the inbox is closed.
    """

    def __init__(self, session: Session, endpoint: ClientEndpoint, key: SubscriberKey) -> None:
        super().__init__(session, endpoint, key)
        self._event_fd = -1
        self._event_lock = NonReentrantLock()
        self._looked_ns = 0
        self._handle: ComesBack | None = None
        self._subscription: Subscription | None = None

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

        It asks the bus for `limit` of them, for one round trip, unless they are here: if that many are queued, it
        returns that many. It does not wait until there are.

        Args:
            limit: How many at most; the credit limits them as well.
            timeout_s: As of `get`; the round trip is not counted.

        Returns:
            The shadows in the order of their arrival; empty if none came in time.

        Raises:
            UsageError: `limit` is not a whole number of 1 or more, or `timeout_s` is not a time.
            BusClosed, ManagerLost: As of `get`.
        """
        if type(limit) is not int or limit < 1:
            limit = self._checked_limit("get_many", limit)
        timeout_s = check_timeout(timeout_s)
        return self._take(limit, timeout_s, self._unclaimed if is_in_executor() else self._shadow)

    def events(self, limit: int, timeout_s: float | None = None) -> list[tuple[EventShadow, Event]]:
        """Take up to `limit` events, each with the shadow by which it is settled; otherwise like `get_many`.

        An event larger than 16 KiB is read in place, as by `EventBus.fetch_event`. One that was marked before it was
        taken is left out.

        Returns:
            (shadow, event) in the order of their arrival; empty if none came in time.

        Raises:
            UsageError, BusClosed, ManagerLost: As of `get_many`.
        """
        if type(limit) is not int or limit < 1:
            limit = self._checked_limit("events", limit)
        timeout_s = check_timeout(timeout_s)
        return self._take(limit, timeout_s, self._event)

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
        return Inbox._take(self, limit, left_s, read)  # Not by `self`: for hooks it is the same call.

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

    def _unclaimed(self, record: Record) -> EventShadow | None:
        """As `_shadow`, in an executor's thread: nobody may be there any more to get it."""
        shadow = self._shadow(record)
        return UnclaimedShadow(shadow, self._give_back) if shadow is not None else None

    def _give_back(self, sequence: int) -> None:
        """Nobody has looked at this shadow, and nobody can any more: it is the next one again."""
        record = self._endpoint.in_flight.get(sequence)
        if record is not None:
            self._endpoint.put_back([record])
            self._session.connection.wake()

    def complete(self, shadow: EventShadow) -> None:
        """Complete a shadow that was taken from here. Does not wait for the manager; repeated, it changes nothing.

        The outcome is reported at once if no other shadow of this inbox is unsettled here, and otherwise within two
        milliseconds, with those that are settled until then.

        Raises:
            BusClosed, ManagerLost: As of `get`.
            NotSubscribed: The event was not delivered to this inbox's subscriber.
        """
        endpoint, session = self._endpoint, self._session
        at = getattr(shadow, "_at", None)
        if at is None or self._closed or endpoint.in_flight.pop(at[4], None) is None:
            self._settle(shadow, Outcome.COMPLETED)
            return
        endpoint.note_completed(at[4])
        if endpoint.is_at_work and endpoint.is_due:
            endpoint.announce()
        try:
            session.reporter.flush_soon(endpoint)
        except ManagerLost as error:
            self._follow(session, error)  # The delivery is lost with the bus.

    def skip(self, shadow: EventShadow, reason: str = "") -> None:
        """Skip a shadow that was taken from here; else like `complete`. `EventBus.statistics` shows the reason."""
        self._settle(shadow, Outcome.SKIPPED, reason)

    def complete_many(self, shadows: Iterable[EventShadow]) -> None:
        """Complete shadows that were taken from here, with one report; else like `complete`.

        Raises:
            NotSubscribed: One is not a shadow that was taken from an inbox; then none is settled. Or one was not
                delivered to this subscriber; then the others are.
            BusClosed, ManagerLost: As of `get`.
        """
        self._settle_many(check_shadows("complete_many", shadows), Outcome.COMPLETED)

    def skip_many(self, shadows: Iterable[EventShadow], reason: str = "") -> None:
        """Skip shadows that were taken from here, all for one reason; else like `complete_many`."""
        self._settle_many(check_shadows("skip_many", shadows), Outcome.SKIPPED, reason)

    def release(self, shadow: EventShadow, delay_s: float = 0.0) -> None:
        """Hand back a shadow that was taken from here: it comes again, here or in another process, and counts as tried.

        Does not wait for the manager. If the shadow is not unsettled here any more, this changes nothing.

        Args:
            shadow: What `get` returned.
            delay_s: After how many seconds; 0: at once, in front of the others.

        Raises:
            UsageError: `delay_s` is not a time.
            BusClosed, ManagerLost: As of `get`.
            NotSubscribed: It was not taken from an inbox.
        """
        delay_s = check_delay("delay_s", delay_s)
        self._check_open()
        place = getattr(shadow, "_place", None)
        endpoint, session = self._endpoint, self._session
        if place is None or endpoint.in_flight.pop(place.sequence, None) is None:
            return
        endpoint.note_retry(place.sequence, int(delay_s * 1e9))
        if endpoint.is_due:
            endpoint.announce()
        try:
            session.reporter.flush_soon(endpoint)
        except ManagerLost as error:
            self._follow(session, error)

    def _settle_many(self, shadows: list[EventShadow], outcome: int, reason: str = "") -> None:
        self._check_open()
        for shadow in shadows:
            if getattr(shadow, "_at", None) is None:
                self._place(shadow)  # which refuses it
        session = self._session
        try:
            session.settle(self, shadows, outcome, reason)
            session.reporter.flush(self._endpoint)
        except ManagerLost as error:
            self._follow(session, error)

    def _settle(self, shadow: EventShadow, outcome: int, reason: str = "") -> None:
        self._check_open()
        place, session = self._place(shadow), self._session
        try:
            if self._endpoint.settle(place.sequence, outcome, reason):
                session.reporter.flush_soon(self._endpoint)
            else:
                session.reporter.flush(self._endpoint)
                session.settle(self, (shadow,), outcome, reason)
        except ManagerLost as error:
            self._follow(session, error)

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

    def __iter__(self) -> Iterator[EventShadow]:
        while not self._ended:
            try:
                shadow = self.get()
            except BusClosed:
                return
            if shadow is not None:
                yield shadow

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

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close(keep=kind is not None)


def _drain_event_fd(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return  # It was not set.
