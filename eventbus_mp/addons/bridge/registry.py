"""What the bridge knows of its own bus's subscribers and topics, from the changes that the bus tells."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_mp import Change, Subscriber, SubscriberKey

__all__ = ["Registry"]


class Registry:
    """A copy of what other hosts need of the registry. One thread changes it, others read what it gave."""

    def __init__(self) -> None:
        self._subscribers: dict[SubscriberKey, Subscriber] = {}
        self._topics: dict[str, None] = {}
        self._is_complete = False

    def take(self, changes: Iterable[Change]) -> bool:
        """Follow these changes: whether anything is different now, and all of it is known."""
        for change in changes:
            if change.kind == "reset":
                self._subscribers, self._topics, self._is_complete = {}, {}, False
            elif change.kind == "complete":
                self._is_complete = True
            elif change.subscriber is not None:
                self._take_subscriber(change.kind, change.subscriber)
            elif change.topic is not None and change.kind == "topic_registered":
                self._topics[change.topic] = None
            elif change.topic is not None:
                self._topics.pop(change.topic, None)
        return self._is_complete

    def _take_subscriber(self, kind: str, subscriber: Subscriber) -> None:
        key = _hashable(subscriber.key)
        if kind == "subscribed":
            self._subscribers[key] = subscriber
        else:
            self._subscribers.pop(key, None)

    @property
    def topics(self) -> list[str]:
        """The names of all topics."""
        return list(self._topics)

    @property
    def shared(self) -> list[Subscriber]:
        """The subscribers that other hosts may send to: not those of other hosts, nor those of this host alone.

        One of scope "cluster" counts only while a process of this host has it: the bridge hosts it as well.
        """
        return [
            item
            for item in self._subscribers.values()
            if item.host is None and item.scope != "local" and (item.scope == "host" or item.home_pids)
        ]


def _hashable(key: SubscriberKey) -> SubscriberKey:
    """A config may be a dict; its text tells it apart as well."""
    return SubscriberKey(key.name, repr(key.config), key.host)
