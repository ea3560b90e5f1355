"""Topics, subscribers, and the route of each topic: who gets a delivery of an event notified now."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_mp.core.backlog import Backlog
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import Route, Topic
from eventbus_mp.errors import UsageError
from eventbus_mp.events import check_topic
from eventbus_mp.patterns import compile_pattern

__all__ = ["Registry"]

TOPICS_MAX = 1 << 16
SUBSCRIBERS_MAX = 1 << 14


class Registry:
    """Names and numbers. A number is never given to another name, so a late record cannot hit a stranger."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.topic_by_number: dict[int, Topic] = {}
        self.subscribers: dict[tuple[str, bytes, str], SubscriberState] = {}
        """By name, config and host."""
        self.subscriber_by_number: dict[int, SubscriberState] = {}
        self._routes: dict[tuple[SubscriberState, ...], Route[SubscriberState]] = {}
        """Topics with the same subscribers share one route, so that their events can share a batch."""
        self._topic_serial = 0
        self._gone: dict[str, int] = {}
        """Numbers of the topics that were unregistered last, by name. A producer may not know of it yet; once there is
        a topic of this name again, what it notifies is meant for that."""
        self._subscriber_serial = 0
        self.version = 0
        """Counts the changes of topics, of their routes, and of what subscribers are."""

    def register(self, name: str) -> Topic:
        """The topic of this name, made if it is new.

        Raises:
            InvalidTopic: The name cannot name a topic.
            UsageError: The bus has too many topics.
        """
        topic = self.topics.get(name)
        return topic if topic is not None else self.register_all([name])[0]

    def register_all(self, names: Iterable[str]) -> list[Topic]:
        """Register every name or, if one of them is refused, none: the topics that are new.

        Raises:
            InvalidTopic: A name cannot name a topic.
            UsageError: The bus would have too many topics.
        """
        new = [check_topic(name) for name in dict.fromkeys(names) if name not in self.topics]
        if len(self.topics) + len(new) > TOPICS_MAX:
            raise UsageError(f"the bus has {TOPICS_MAX} topics and takes no more; put what varies into the data")
        return [self._add(name) for name in new]

    def _add(self, name: str) -> Topic:
        number = self._gone.pop(name, 0)
        if not number:
            self._topic_serial = number = self._topic_serial + 1
        topic = Topic(number, name)
        self.topics[name] = self.topic_by_number[number] = topic
        self._reroute(topic)
        return topic

    def number_of(self, name: str) -> int:
        """The number of the topic of this name, also of one that was unregistered lately; 0: none had it."""
        topic = self.topics.get(name)
        return topic.number if topic is not None else self._gone.get(name, 0)

    def was_registered(self, number: int) -> bool:
        """Whether a topic ever had this number."""
        return 1 <= number <= self._topic_serial

    def unregister(self, name: str) -> Topic | None:
        """Forget a topic: the one of this name, or None."""
        topic = self.topics.pop(name, None)
        if topic is not None:
            self.version += 1
            del self.topic_by_number[topic.number]
            topic.is_gone = True
            self._gone[name] = topic.number
            if len(self._gone) > TOPICS_MAX:
                del self._gone[next(iter(self._gone))]
        return topic

    def subscribe(
        self, name: str, config: bytes, patterns: list[str], broadcast: bool, scope: str = "host", host: str = ""
    ) -> SubscriberState:
        """The subscriber of this name, config and host, with its patterns and its scope replaced.

        Raises:
            InvalidPattern: One does not compile; the subscriber is as it was.
        """
        matchers = tuple(compile_pattern(pattern) for pattern in patterns)
        subscriber = self.subscribers.get((name, config, host))
        if subscriber is None:
            if len(self.subscribers) >= SUBSCRIBERS_MAX:
                raise UsageError(f"the bus has {SUBSCRIBERS_MAX} subscribers and takes no more")
            self._subscriber_serial += 1
            subscriber = SubscriberState(self._subscriber_serial, name, config, broadcast, host)
            self.subscribers[subscriber.key] = subscriber
            self.subscriber_by_number[subscriber.number] = subscriber
        if subscriber.scope != scope:
            subscriber.scope = scope
            self.version += 1
        if subscriber.patterns == tuple(patterns):
            return subscriber
        subscriber.patterns = tuple(patterns)
        subscriber.matchers = matchers
        self._reroute_for(subscriber)
        return subscriber

    def set_backlog(self, subscriber: SubscriberState, backlog: Backlog | None) -> None:
        """Count what the subscriber has, and bound it so; None: any longer."""
        self.version += 1
        subscriber.backlog = backlog
        for route in self._routes.values():
            if subscriber.number in route.row_of:
                route.find_bounded()

    def unsubscribe(self, subscriber: SubscriberState) -> None:
        """Take it out of every route; events notified before keep theirs."""
        del self.subscribers[subscriber.key]
        subscriber.patterns = ()
        subscriber.matchers = ()
        self._reroute_for(subscriber)

    def forget(self, subscriber: SubscriberState) -> None:
        """The last delivery of an unsubscribed subscriber is settled, so its number means nothing any more."""
        self.subscriber_by_number.pop(subscriber.number, None)

    def is_subscribed(self, subscriber: SubscriberState) -> bool:
        """Whether it is the present subscriber of its key, and has not been unsubscribed."""
        return self.subscribers.get(subscriber.key) is subscriber

    def _reroute_for(self, subscriber: SubscriberState) -> None:
        """Give a new route to the topics that it wants and is not told of, or the other way round.

        The others' patterns are not looked at: with a thousand topics and a hundred subscribers that took the manager
        a tenth of a second.
        """
        self.version += 1
        number, changed = subscriber.number, dict[Route[SubscriberState], Route[SubscriberState]]()
        for topic in self.topics.values():
            before = topic.route
            wanted = subscriber.wants(topic.name)
            if wanted == (number in before.row_of):
                continue
            if before not in changed:
                others = [item for item in before.subscribers if item is not subscriber]
                wanting = sorted([*others, subscriber], key=lambda item: item.number) if wanted else others
                changed[before] = self._route_of(tuple(wanting))
            topic.route = changed[before]
        self._routes = {route.subscribers: route for route in {topic.route for topic in self.topics.values()}}

    def _reroute(self, topic: Topic) -> None:
        self.version += 1
        topic.route = self._route_of(
            tuple(subscriber for subscriber in self.subscribers.values() if subscriber.wants(topic.name))
        )

    def _route_of(self, wanting: tuple[SubscriberState, ...]) -> Route[SubscriberState]:
        return self._routes.get(wanting) or self._routes.setdefault(wanting, Route(wanting))
