"""The numbers of topics, for a process that publishes: asked for once, and kept until the manager says they are stale.

A topic that nobody is subscribed to has none. Its events end here: that is warned of now and then, counted, and
reported to the manager.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable

from eventbus_mp.client.connection import Connection, only_looks
from eventbus_mp.client.steps import Steps, ask, reply
from eventbus_mp.errors import NoSubscriber, UnknownTopic
from eventbus_mp.events import check_topic
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.requests import ReportDropped, ResolveTopic

__all__ = ["TopicNumbers"]

log = logging.getLogger("eventbus_mp")

WARNING_INTERVAL_NS = 60 * 10**9
"""A topic without a subscriber is warned of this often."""
DROPPED_INTERVAL_NS = 10**9
"""Events that are dropped for want of a subscriber are reported at most this often."""


class TopicNumbers:
    """Args:
    connection: The link to report on.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._protocol = connection.protocol
        self._topics = connection.protocol.topics
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

    def resolving(self, name: str) -> Steps[int]:
        """The topic's number, or 0 when there is nobody to tell, which is warned of."""
        number, subscribed = yield from self._asking(name)
        if subscribed:
            return number
        self._warn(name, "has no subscriber" if number else "doesn't exist")
        return 0

    def numbering(self, name: str) -> Steps[int]:
        """The topic's number, whether anybody is subscribed or not; 0: it is not registered, which is warned of."""
        number, _ = yield from self._asking(name)
        if not number:
            self._warn(name, "doesn't exist")
        return number

    def _asking(self, name: str) -> Steps[tuple[int, bool]]:
        """The topic's number, or 0, and whether anybody is subscribed; if so, the number is kept."""
        check_topic(name)
        if self.is_refused:
            raise only_looks(self._connection.bus)
        number, subscribed = yield ask(ResolveTopic, name)
        if not number and self._config.strict:
            raise UnknownTopic(f"topic {name!r} is not registered; call register_topic({name!r}) first")
        if self._required:
            return (yield from self._resolving_required(name)), True
        if subscribed:
            self._topics[name] = number
        return int(number), bool(subscribed)

    def _resolving_required(self, name: str) -> Steps[int]:
        """The topic's number if all subscribers that are required get its events. `ClientProtocol` remembers it."""
        request = self._connection.call(self._protocol.require, name, self._required)
        number, missing = yield reply(request, "RequireSubscribers")
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
