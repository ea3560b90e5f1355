"""Where the events of a link go, if it has said so: to some subscribers only, or as events of another host.

A process that says nothing has no direction, and its events go the way that `Registry` knows. The process that joins
this host with others says for each parcel whom it is for. So directions come again and again: each is kept, with the
routes that it has led to, until the registry changes.
"""

from __future__ import annotations

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import NOBODY, Route, Topic
from eventbus_mp.core.registry import Registry

__all__ = ["Direction", "Directions", "SubscriberKeys"]

KNOWN_MAX = 1_024
"""How many directions are remembered; beyond that, all are forgotten and made again."""

SubscriberKeys = tuple[tuple[str, bytes, str], ...]


class Direction:
    """To whom events go.

    Args:
        keys: These subscribers; none: those that the topic of an event has.
        is_imported: They have come from another host.
    """

    __slots__ = ("_made", "_routes", "_version", "is_imported", "keys")

    def __init__(self, keys: SubscriberKeys, *, is_imported: bool) -> None:
        self.keys = keys
        self.is_imported = is_imported
        self._version = 0
        """The registry's, for which the routes are."""
        self._routes: dict[Route[SubscriberState], Route[SubscriberState]] = {}
        """By the route that a topic has for others; with keys there is one, for all topics."""
        self._made: dict[tuple[SubscriberState, ...], Route[SubscriberState]] = {}

    def routed(
        self, registry: Registry, numbers: list[int], start: int, stop: int
    ) -> tuple[list[Topic], Route[SubscriberState], int]:
        """As `ingest._routed`: the topics of those from `start` on that have one route, it, and where they end."""
        several = [registry.topic_by_number.get(number) for number in numbers[start:stop]]
        route = self._route_of(registry, several[0])
        found = []
        for topic in several:
            if self._route_of(registry, topic) is not route:
                break
            if topic is not None:
                found.append(topic)
        count = len(found) or several.count(None)
        return (found[:1] if len(set(found)) == 1 else found), route, start + count

    def _route_of(self, registry: Registry, topic: Topic | None) -> Route[SubscriberState]:
        if topic is None:
            return NOBODY
        if self._version != registry.version:
            self._version = registry.version
            self._routes.clear()
            self._made.clear()
        usual = NOBODY if self.keys else topic.route
        return self._routes.get(usual) or self._routes.setdefault(usual, self._make(registry, usual))

    def _make(self, registry: Registry, usual: Route[SubscriberState]) -> Route[SubscriberState]:
        if self.keys:
            known = {registry.subscribers.get(key) for key in self.keys}
            wanting = sorted((item for item in known if item is not None), key=lambda item: item.number)
        else:
            wanting = list(usual.subscribers)
        found = tuple(item for item in wanting if item.is_home or not self.is_imported)
        if not found:
            return NOBODY
        return self._made.setdefault(found, Route(found, is_imported=self.is_imported))


class Directions:
    """The directions that links have, or had lately."""

    def __init__(self) -> None:
        self._known: dict[tuple[SubscriberKeys, bool], Direction] = {}

    def find(self, keys: SubscriberKeys, *, is_imported: bool) -> Direction | None:
        """The direction of these; None: it is the usual one."""
        if not keys and not is_imported:
            return None
        found = self._known.get((keys, is_imported))
        if found is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            found = self._known[keys, is_imported] = Direction(keys, is_imported=is_imported)
        return found
