"""What follows the registry of a bus without waiting; a thread (changes.py) or a task (aio/changes.py) waits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from eventbus_mp.client.listeners import subscriber_of
from eventbus_mp.errors import BusClosed
from eventbus_mp.protocol.requests import FollowChanges, StopFollowing
from eventbus_mp.statistics import Subscriber

if TYPE_CHECKING:
    from eventbus_mp.client.session import Session

__all__ = ["Change", "ChangeFeed"]

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a bus's topics or subscribers."""

    kind: str
    """"subscribed": the subscriber is there. It comes again when its patterns have changed, and when the last process
    that hosts it has gone or the first one has come; it does not for every process.
    "unsubscribed": the subscriber is gone, with what waited for it.
    "topic_registered", "topic_unregistered": of the topic.
    "complete": that was all that there was at the beginning; what follows are changes.
    "reset": what you know is out of date. All that there is follows, up to "complete"."""
    topic: str | None = None
    subscriber: Subscriber | None = None
    """As it is after the change; one that is gone, as it was."""


class ChangeFeed:
    """A follower; the base of both kinds of `Changes`."""

    _asked: tuple[Session, int]
    """The session, and what is asked on it at this moment. Replaced as one, for another thread may look."""

    def __init__(self) -> None:
        self._number = next(_numbers)
        self._closed = False
        self._is_reset = False
        """The bus was lost: what is known is out of date."""

    def _ask(self, session: Session) -> None:
        connection = session.connection
        self._asked = session, connection.call(connection.protocol.request, FollowChanges, self._number)

    @property
    def _has_news(self) -> bool:
        """Whether there is something to take; or it was closed."""
        session, request = self._asked
        return self._closed or session.connection.protocol.has_reply(request)

    def _take(self) -> list[Change]:
        """What the answer says. The next question is on its way then, so that an answer to it can be waited for."""
        self._check_open()
        session, answered = self._asked
        self._ask(session)
        if self._closed:  # By another thread, just now: what it has ended has begun again.
            self._stop()
            self._check_open()
        changes = [_change_of(row) for row in session.connection.protocol.take_reply(answered)]
        if self._is_reset:
            changes.insert(0, Change("reset"))
            self._is_reset = False
        return changes

    def _go_on(self, session: Session) -> bool:
        """Follow the bus of this session: the one before was lost. False: that is done."""
        if self._closed or self._asked[0] is session:
            return False
        self._is_reset = True
        self._ask(session)
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed("these changes were closed")

    def _stop(self) -> None:
        """Ask no more, of a bus that is not lost."""
        session, request = self._asked
        session.connection.protocol.forget_reply(request)
        session.connection.send_oneway(StopFollowing, self._number)


def _change_of(row: list[Any]) -> Change:
    kind, topic, facts = row
    return Change(kind, topic, subscriber_of(facts) if facts is not None else None)
