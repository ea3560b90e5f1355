"""Dead letters: what failed, as users see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventbus_mp.client.listeners import key_of
from eventbus_mp.client.session import Session
from eventbus_mp.client.steps import Steps, ask
from eventbus_mp.client.validation import check_limit
from eventbus_mp.errors import UsageError
from eventbus_mp.events import EventShadow, Place
from eventbus_mp.ids import EventId
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.protocol.requests import ListDeadLetters, Redeliver
from eventbus_mp.statistics import SubscriberKey

__all__ = ["DeadLetter", "list_dead_letters", "redeliver"]

PAGE = 100
"""How many travel in one answer: with their tracebacks, a quarter of a megabyte at most."""
LISTED_MAX = 1 << 31


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that failed for a subscriber, and that is unsettled in the dead letter topic."""

    shadow: EventShadow
    """The event, by its own topic and id."""
    subscriber: SubscriberKey
    """The subscriber that failed."""
    reason: str
    """Why the delivery was skipped."""
    error: str
    """The name of the last exception's class; "" if none was raised, as after crashes."""
    text: str
    """The text of the last exception, or what happened instead of one."""
    traceback: str
    """The end of the last exception's traceback, 2 KiB at most."""
    attempts: int
    """How often the event was tried, crashes included; 0: its subscriber was gone before."""
    first_failed_at_s: float | None
    """When it failed first, in seconds since the epoch; None: it was never tried."""
    last_failed_at_s: float | None
    """When it failed last."""


def list_dead_letters(session: Session, limit: int) -> Steps[list[DeadLetter]]:
    """Up to `limit` dead letters, the oldest first; one round trip for each hundred."""
    limit = check_limit("dead_letters", limit, LISTED_MAX)
    found: list[DeadLetter] = []
    after = 0
    while len(found) < limit:
        count = min(PAGE, limit - len(found))
        rows = yield ask(ListDeadLetters, after, count)
        for row in rows:
            found.append((yield from _dead_letter(session, row)))
        if len(rows) < count:
            break
        after = rows[-1]["number"]
    return found


def _dead_letter(session: Session, row: dict[str, Any]) -> Steps[DeadLetter]:
    record = RECORD.unpack(row["record"])
    place = Place(record[1], record[2], record[3], record[4], record[7])
    event_id = session.fetcher.id_at(place) or f"{place.sequence:#x}"
    transport = session.connection.transport
    epoch_ns = transport.time_ns() - transport.monotonic_ns()
    first_s, last_s = ((epoch_ns + row[name]) / 1e9 if row[name] else None for name in ("first_ns", "last_ns"))
    return DeadLetter(
        shadow=EventShadow((yield from session.fetcher.naming(place.topic)), event_id, place),
        subscriber=key_of(row["name"], row["config"], row["host"]),
        reason=row["reason"],
        error=row["error"],
        text=row["text"],
        traceback=row["traceback"],
        attempts=row["attempts"],
        first_failed_at_s=first_s,
        last_failed_at_s=last_s,
    )


def redeliver(session: Session, what: DeadLetter | EventShadow | tuple[str, EventId] | None) -> Steps[int]:
    """Have one dead letter, or (None) all, sent again to the subscriber that failed: how many were.

    Raises:
        UsageError: The event was never stored, or is settled.
        NotSubscribed, UnknownTopic: The subscriber, or the topic, is gone.
    """
    if what is None:
        return int((yield ask(Redeliver, 0)))
    shadow = what.shadow if isinstance(what, DeadLetter) else what
    if not isinstance(shadow, EventShadow):
        # By its own topic and id: it is unsettled in another topic.
        letters = yield from list_dead_letters(session, LISTED_MAX)
        shadow = next((item.shadow for item in letters if item.shadow == shadow), shadow)
    place = yield from session.placing(shadow)
    if place is None:
        raise UsageError(f"{what!r} is not an unsettled event; give one of dead_letters()")
    return int((yield ask(Redeliver, place.sequence)))
