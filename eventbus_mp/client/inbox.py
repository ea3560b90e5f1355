"""Inbox: pull instead of push. A mailbox is a subscriber like any other; several processes may share one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventbus_mp.client.pulled_mailbox import PulledMailbox
from eventbus_mp.client.unclaimed import UnclaimedShadow, is_in_executor
from eventbus_mp.client.validation import check_delay, check_shadows, check_timeout
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.protocol.messages import Outcome, Record

__all__ = ["Inbox"]


class Inbox(PulledMailbox):
    """The shadows of one subscriber, to be taken when you want them. Made by `EventBus.inbox`; threads may share one.

    Complete or skip every shadow that you have taken, one at a time or in batches; `complete` and `skip` are short for
    `EventBus.mark_as_completed` and `mark_as_skipped`. With the credit "auto" you can take as many as `credit_max` of
    the bus before you settle the first. With a number, at most so many are unsettled at once.

    `for shadow in inbox` waits for each next one, and ends when the inbox is closed.
    """

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

    def __iter__(self) -> Iterator[EventShadow]:
        while not self._ended:
            try:
                shadow = self.get()
            except BusClosed:
                return
            if shadow is not None:
                yield shadow

    def __enter__(self) -> Inbox:
        return self
