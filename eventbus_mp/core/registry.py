"""Topics, subscribers, and the route of each topic: who gets a delivery of an event notified now."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from eventbus_mp.errors import UsageError
from eventbus_mp.events import check_topic
from eventbus_mp.patterns import compile_pattern

if TYPE_CHECKING:
    from eventbus_mp.core.batches import EventBatch
    from eventbus_mp.core.dispatcher import Endpoint

__all__ = ["Registry", "Route", "SubscriberState", "Topic"]

RECENT_SKIPS_MAX = 100
"""So many skips, with their reasons, are remembered of a subscriber."""
TOPICS_MAX = 1 << 16
SUBSCRIBERS_MAX = 1 << 14


class Route:
    """The subscribers of some topics at one moment. Events keep the route they were notified with.

    Each subscriber has a row: its place in the lists of masks that a run keeps.
    """

    __slots__ = ("row_of", "subscribers")

    def __init__(self, subscribers: tuple[SubscriberState, ...]) -> None:
        self.subscribers = subscribers
        self.row_of = {subscriber.number: row for row, subscriber in enumerate(subscribers)}


NOBODY = Route(())


class Topic:
    """One topic; `unsettled` counts its events that somebody still has to settle."""

    __slots__ = ("is_gone", "name", "number", "route", "unsettled")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.unsettled = 0
        self.route = NOBODY
        self.is_gone = False
        """It was unregistered."""


class SubscriberState:
    """One subscriber: what it wants, who hosts it, and what waits for it."""

    __slots__ = (
        "attempts",
        "broadcast",
        "completed",
        "config",
        "endpoints",
        "matchers",
        "name",
        "number",
        "patterns",
        "quarantine",
        "queue",
        "queued",
        "recent_skips",
        "redelivered",
        "skipped",
        "stale",
    )

    def __init__(self, number: int, name: str, config: bytes, broadcast: bool) -> None:
        self.number = number
        self.name = name
        self.config = config
        self.broadcast = broadcast
        self.patterns: tuple[str, ...] = ()
        self.matchers: tuple[re.Pattern[str], ...] = ()
        self.endpoints: list[Endpoint] = []
        self.queue: deque[EventBatch] = deque()
        """Runs of which events wait."""
        self.queued = 0
        """How many deliveries wait in these runs."""
        self.stale = 0
        """How many places in `queue` are of runs of which nothing waits any more."""
        self.quarantine: deque[tuple[EventBatch, int]] = deque()
        """(run, bit) of events whose holder crashed: they come before `queue`, and each is sent alone, so that the next
        crash accuses one event."""
        self.attempts: dict[int, int] = {}
        """sequence -> crashes, of suspects only."""
        self.completed = 0
        self.skipped = 0
        self.redelivered = 0
        self.recent_skips: deque[tuple[str, str]] = deque(maxlen=RECENT_SKIPS_MAX)

    def wants(self, topic: str) -> bool:
        return any(matcher.match(topic) for matcher in self.matchers)


class Registry:
    """Names and numbers. A number is never given to another name, so a late record cannot hit a stranger."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.topic_by_number: dict[int, Topic] = {}
        self.subscribers: dict[tuple[str, bytes], SubscriberState] = {}
        self.subscriber_by_number: dict[int, SubscriberState] = {}
        self._routes: dict[tuple[SubscriberState, ...], Route] = {}
        """Topics with the same subscribers have one route, so that their events can be of one run."""
        self._topic_serial = 0
        self._gone: dict[str, int] = {}
        """Numbers of topics that were unregistered, the latest ones: a producer may not know of it yet, and what it
        notifies once there is a topic of this name again is meant for that."""
        self._subscriber_serial = 0

    def register(self, name: str) -> Topic:
        """The topic of this name, made if it is new.

        Raises:
            InvalidTopic: The name cannot name a topic.
        """
        topic = self.topics.get(name)
        if topic is None:
            check_topic(name)
            if len(self.topics) >= TOPICS_MAX:
                raise UsageError(f"the bus has {TOPICS_MAX} topics and takes no more; put what varies into the data")
            number = self._gone.pop(name, 0)
            if not number:
                self._topic_serial = number = self._topic_serial + 1
            topic = Topic(number, name)
            self.topics[name] = self.topic_by_number[topic.number] = topic
            self._reroute(topic)
        return topic

    def was_registered(self, number: int) -> bool:
        """Whether a topic ever had this number."""
        return 1 <= number <= self._topic_serial

    def unregister(self, name: str) -> Topic | None:
        topic = self.topics.pop(name, None)
        if topic is not None:
            del self.topic_by_number[topic.number]
            topic.is_gone = True
            self._gone[name] = topic.number
            if len(self._gone) > TOPICS_MAX:
                del self._gone[next(iter(self._gone))]
        return topic

    def subscribe(self, name: str, config: bytes, patterns: list[str], broadcast: bool) -> SubscriberState:
        """The subscriber of this name and config, with its patterns replaced.

        Raises:
            InvalidPattern: One does not compile; the subscriber is as it was.
        """
        matchers = tuple(compile_pattern(pattern) for pattern in patterns)
        subscriber = self.subscribers.get((name, config))
        if subscriber is None:
            if len(self.subscribers) >= SUBSCRIBERS_MAX:
                raise UsageError(f"the bus has {SUBSCRIBERS_MAX} subscribers and takes no more")
            self._subscriber_serial += 1
            subscriber = SubscriberState(self._subscriber_serial, name, config, broadcast)
            self.subscribers[name, config] = subscriber
            self.subscriber_by_number[subscriber.number] = subscriber
        elif subscriber.patterns == tuple(patterns):
            return subscriber
        subscriber.patterns = tuple(patterns)
        subscriber.matchers = matchers
        self._reroute_for(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: SubscriberState) -> None:
        """Take it out of every route; events notified before keep theirs."""
        del self.subscribers[subscriber.name, subscriber.config]
        subscriber.patterns = ()
        subscriber.matchers = ()
        self._reroute_for(subscriber)

    def forget(self, subscriber: SubscriberState) -> None:
        """The last delivery of an unsubscribed subscriber is settled: its number means nothing any more."""
        self.subscriber_by_number.pop(subscriber.number, None)

    def is_subscribed(self, subscriber: SubscriberState) -> bool:
        return self.subscribers.get((subscriber.name, subscriber.config)) is subscriber

    def _reroute_for(self, subscriber: SubscriberState) -> None:
        """Give a new route to the topics that it wants, or is told of."""
        for topic in self.topics.values():
            if subscriber.number in topic.route.row_of or subscriber.wants(topic.name):
                self._reroute(topic)
        self._routes = {topic.route.subscribers: topic.route for topic in self.topics.values()}

    def _reroute(self, topic: Topic) -> None:
        wanting = tuple(subscriber for subscriber in self.subscribers.values() if subscriber.wants(topic.name))
        topic.route = self._routes.get(wanting) or self._routes.setdefault(wanting, Route(wanting))
