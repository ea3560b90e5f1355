"""Mailbox: what an inbox does without waiting; a thread (inbox.py) or a task (aio/inbox.py) waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from eventbus_mp.arguments import as_int
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.errors import BusClosed, NotSubscribed, UsageError
from eventbus_mp.events import Event, EventShadow, Place
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.reasons import EXPIRED, PAYLOAD_GONE
from eventbus_mp.statistics import SubscriberKey

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox:
    """The shadows of one subscriber; the base of both inboxes."""

    def __init__(self, session: Session, endpoint: ClientEndpoint, key: SubscriberKey) -> None:
        self.key = key
        self._session = session
        self._endpoint = endpoint
        self._transport = session.connection.transport
        self._closed = False

    def _checked_limit(self, call: str, limit: object) -> int:
        number = as_int(limit)
        if number is None or number < 1:
            raise UsageError(f"{call}({limit!r}) of inbox {self.key.name!r}: give a whole number, 1 or more")
        return number

    def _take_arrived(self, limit: int, read: Callable[[Record], T | None], taken: list[T]) -> None:
        """Append up to `limit` of what has arrived; none is taken if an exception comes."""
        records = self._endpoint.take_many(limit)
        try:
            for record in records:
                found = read(record)
                if found is not None:
                    taken.append(found)
        except BaseException:  # No descriptor is left to map its memory with, or a signal handler has raised.
            self._endpoint.put_back(records)
            raise

    def _shadow(self, record: Record) -> EventShadow | None:
        """The shadow of a delivery just taken; None when its time is over, or its payload gone: then it is settled."""
        shadow = self._session.fetcher.delivered_shadow(record)
        if shadow is None:
            self._endpoint.settle(record[7], Outcome.FAILED, PAYLOAD_GONE)
        elif record[6] and self._has_expired(record):
            return None
        return shadow

    def _event(self, record: Record) -> tuple[EventShadow, Event] | None:
        """As `_shadow`, with the event; None as well if it was marked meanwhile: its memory may be in other hands."""
        if record[6] and self._has_expired(record):
            return None
        both = self._session.fetcher.delivered_both(record)
        if both is None:
            self._endpoint.settle(record[7], Outcome.FAILED, PAYLOAD_GONE)
        return both if record[7] in self._endpoint.in_flight else None

    def _has_expired(self, record: Record) -> bool:
        """Whether the time of a delivery that has a deadline is over; then it is settled."""
        is_over = record[6] <= self._transport.monotonic_ns()
        if is_over:
            self._endpoint.settle(record[7], Outcome.SKIPPED, EXPIRED)
        return is_over

    def _note_release(self, shadow: EventShadow, delay_s: float) -> bool:
        """Note that a shadow in flight is to be tried again after a delay; False: it is not in flight here."""
        place, endpoint = self._place(shadow), self._endpoint
        if endpoint.in_flight.pop(place.sequence, None) is None:
            return False
        endpoint.note_retry(place.sequence, int(delay_s * 1e9))
        return True

    def attempt(self, shadow: EventShadow) -> int:
        """Which attempt this is at a shadow that was taken from here; 1: the first. Never blocks.

        Attempts whose process crashed count as well.
        """
        place = getattr(shadow, "_place", None)
        return self._endpoint.attempt_of(place.sequence) if place is not None else 1

    def _place(self, shadow: EventShadow) -> Place:
        place: Place | None = getattr(shadow, "_place", None)
        if place is None:
            raise NotSubscribed(f"{shadow!r} was not taken from inbox {self.key.name!r}; settle what get() returned")
        return place

    @property
    def _ended(self) -> bool:
        return self._closed or self._endpoint.is_over

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed(f"inbox {self.key.name!r} was closed")
        if self._endpoint.is_over:
            raise BusClosed(f"inbox {self.key.name!r} was unsubscribed, or closed through another Inbox of this handle")
