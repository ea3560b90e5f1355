"""The numbers of topics, for a process that publishes: asked for once, and kept until the manager says they are stale.

A topic that nobody is subscribed to has none. Its events end here: that is warned of now and then, counted, and
reported to the manager.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from eventbus_mp.client.connection import Connection, only_looks
from eventbus_mp.client.steps import Steps, ask, happening, reply
from eventbus_mp.errors import BusFull, NoSubscriber, UnknownTopic
from eventbus_mp.events import check_topic
from eventbus_mp.geometry import WAIT_S_MAX
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.requests import AwaitRoom, ReportDropped, ResolveTopic

__all__ = ["TopicNumbers"]

log = logging.getLogger("eventbus_mp")

WARNING_INTERVAL_NS = 60 * 10**9
"""A topic without a subscriber is warned of this often."""
DROPPED_INTERVAL_NS = 10**9
"""Events that are dropped for want of a subscriber are reported at most this often."""


class TopicNumbers:
    """Args:
    connection: The link to report on.
    before_waiting: Called before a wait for room, which outcomes that are not reported yet may end.
    """

    def __init__(self, connection: Connection, before_waiting: Callable[[], None]) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._topics = connection.protocol.topics
        self._allowed = connection.protocol.allowed
        self._before_waiting = before_waiting
        self._config = connection.config
        self._required: list[str] = []
        self.is_refused = False
        """This process only looks, and publishes nothing."""
        self._lock = connection.transport.lock
        self._now_ns = connection.transport.monotonic_ns
        self._warned_ns: dict[str, int] = {}
        """Topic -> when its lack of a subscriber was last warned of."""
        self._dropped: dict[str, int] = {}
        """Topic -> events that nobody was subscribed to, and that are not reported yet."""
        self._reported_ns = 0
        connection.on_topic_stale = self._on_topic_stale

    def require(self, names: Iterable[str]) -> None:
        """Refuse events of topics that a subscriber of one of these names does not get."""
        self._required = list(dict.fromkeys([*self._required, *names]))
        self._protocol.forget_required()

    def resolving(self, name: str, timeout_s: float | None = None) -> Steps[int]:
        """The topic's number, for one event; or 0 when there is nobody to tell, which is warned of.

        It waits while the backlog of a subscriber is full that has producers wait.

        Raises:
            BusFull: It is full still after `timeout_s`; None: `notify_timeout_s`.
        """
        if self.may_send(name):
            return self._allowed[name].number
        answer = yield from self._asking(name)
        if isinstance(answer[2], list):
            answer = yield from self._awaiting_room(name, answer[2], timeout_s)
        number, subscribed = yield from self._keeping(name, *answer)
        if subscribed:
            self.may_send(name)
            return number
        self._warn(name, "has no subscriber" if number else "doesn't exist")
        return 0

    def numbering(self, name: str) -> Steps[int]:
        """The topic's number, whether anybody is subscribed or has room, or not; 0: it is not registered, which is
        warned of."""
        allowed = self._allowed.get(name)
        if allowed is not None:
            return allowed.number
        answer = yield from self._asking(name)
        number, _ = yield from self._keeping(name, *answer)
        if not number:
            self._warn(name, "doesn't exist")
        return number

    def _asking(self, name: str) -> Steps[list[Any]]:
        """The answer to `ResolveTopic`."""
        check_topic(name)
        if self.is_refused:
            raise only_looks(self._connection.bus)
        answer: list[Any] = yield ask(ResolveTopic, name)
        return answer

    def _keeping(self, name: str, number: int, subscribed: bool, room: object) -> Steps[tuple[int, bool]]:
        """The topic's number, or 0, and whether anybody is subscribed; if so, the number is kept."""
        if not number and self._config.strict:
            raise UnknownTopic(f"topic {name!r} is not registered; call register_topic({name!r}) first")
        if self._required:
            return (yield from self._resolving_required(name)), True
        if subscribed:
            self._protocol.allow(name, number, room)
        return number, subscribed

    def may_send(self, name: str) -> bool:
        """Count one event of a topic of which a subscriber has a bound; False: it is to be resolved first."""
        allowed = self._allowed.get(name)
        if allowed is None or allowed.left <= 0:
            return False
        allowed.left -= 1
        return True

    def _awaiting_room(self, name: str, full: list[list[Any]], timeout_s: float | None) -> Steps[list[Any]]:
        """Wait until no subscriber of the topic is in the way: the answer to `ResolveTopic` then."""
        if timeout_s is None:
            timeout_s = self._config.notify_timeout_s
        deadline_ns = self._now_ns() + int(min(timeout_s, WAIT_S_MAX) * 1e9)
        self._before_waiting()
        while (left_s := (deadline_ns - self._now_ns()) / 1e9) > 0:
            request = self._connection.call(self._protocol.request, AwaitRoom, name)
            if (yield happening(request, left_s)):
                answer = self._protocol.take_reply(request)
            else:
                answer = yield ask(ResolveTopic, name)  # Who is in the way now, for the error.
            if not isinstance(answer[2], list):
                return answer  # type: ignore[no-any-return]
            full = answer[2]
        raise BusFull(
            f"no room for events of topic {name!r} within {timeout_s:g} s: {', '.join(map(_said_full, full))}. Settle "
            "events faster, raise its bound, or subscribe it with when_full='skip'"
        )

    def _resolving_required(self, name: str) -> Steps[int]:
        """The topic's number if all subscribers that are required get its events. `ClientProtocol` remembers it."""
        request = self._connection.call(self._protocol.require, name, self._required)
        number, missing, _ = yield reply(request, "RequireSubscribers")
        if not number:
            raise NoSubscriber(
                f"topic {name!r} has no subscriber {', '.join(missing)}, which EventBus(require=...) names; nothing "
                "was published. Subscribe it, and publish again"
            )
        return int(number)

    def _on_topic_stale(self, event: TopicStale) -> None:
        for name in self._protocol.forget_stale(event.topic):
            if event.dropped:
                try:
                    self._warn(name, "lost its last subscriber, or was unregistered")
                except Exception:  # A log's handler is the user's code. The thread that reads for all goes on.
                    traceback.print_exc()

    # --- events that nobody gets ---

    def _warn(self, name: str, what: str) -> None:
        """Say that a topic has nobody, unless that was said lately."""
        now_ns = self._now_ns()
        warned_ns = self._warned_ns.get(name)
        if warned_ns is None or now_ns - warned_ns >= WARNING_INTERVAL_NS:
            self._warned_ns[name] = now_ns
            log.warning("topic %r %s; its events are dropped (bus %r)", name, what, self._connection.bus)

    def note_dropped(self, name: str) -> None:
        """Nobody is subscribed, and the event ends here: count it, and report the counts now and then."""
        with self._lock.held():
            self._dropped[name] = self._dropped.get(name, 0) + 1
        if self._now_ns() - self._reported_ns >= DROPPED_INTERVAL_NS:
            self.report()

    def report(self) -> None:
        """Tell the manager how many events this process has dropped, for want of a subscriber, since the last time.

        Raises:
            ManagerLost, BusClosed: The link has ended.
        """
        if self._dropped:
            self._connection.call(self._report)

    def _report(self) -> None:
        dropped, self._dropped = self._dropped, {}
        self._reported_ns = self._now_ns()
        if dropped:  # else: another thread was faster.
            self._protocol.notice(ReportDropped, list(dropped), list(dropped.values()))


def _said_full(row: list[Any]) -> str:
    """A subscriber that is in the way, as `room_of` in core/bounds.py has it."""
    name, _, host, events, events_max, nbytes, bytes_max = row
    shown = f"{name}@{host}" if host else name
    if events_max and events >= events_max:
        return f"subscriber {shown!r} has {events} unsettled events, and may have {events_max} (backlog_max)"
    return f"subscriber {shown!r} has {nbytes} unsettled bytes, and may have {bytes_max} (backlog_bytes_max)"
