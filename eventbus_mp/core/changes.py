"""Followers: processes that hear of every topic and every subscriber, first of all that there are, then of each change.

A follower asks, and is answered when there is something that it has not heard (`requests.FollowChanges`). What happened
lately is kept once for all of them, and each has its place in it. One that is so far behind that what it would hear
next is no longer kept begins again with all that there is: so whatever it misses, it ends with the true registry. While
nobody follows, nothing is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.registry import Registry

__all__ = ["Changes", "Follower", "facts_of", "form_of"]

KEPT_MAX = 10_000
"""How many changes are kept for those who are behind."""
PAGE_MAX = 1_000
"""How many one answer has."""

Row = tuple[str, str | None, dict[str, Any] | None]
"""Kind, topic, and what `facts_of` says of a subscriber, as they travel."""
Form = tuple[tuple[str, ...], str, bool]
"""What of a subscriber makes a change: its patterns, its scope, and whether a process hosts it that does not forward
its events to another host."""


def facts_of(subscriber: SubscriberState) -> dict[str, Any]:
    """A subscriber as processes hear of it."""
    return {
        "name": subscriber.name,
        "config": subscriber.config,
        "host": subscriber.host,
        "patterns": list(subscriber.patterns),
        "scope": subscriber.scope,
        "pids": [endpoint.pid for endpoint in subscriber.endpoints],
        "home_pids": [endpoint.pid for endpoint in subscriber.endpoints if not endpoint.forwards],
    }


def form_of(subscriber: SubscriberState) -> Form:
    """Its form at this moment."""
    is_home = any(not endpoint.forwards for endpoint in subscriber.endpoints)
    return subscriber.patterns, subscriber.scope, is_home


class Follower:
    """One who follows, and how far."""

    __slots__ = ("ahead", "link", "number", "place", "request")

    def __init__(self, link: int, number: int) -> None:
        self.link = link
        self.number = number
        self.request: int | None = None
        """What it asked last and was not answered."""
        self.ahead: Iterator[Row] = iter(())
        """What it hears before the changes from `place` on: all that there was when it began."""
        self.place = 0


class Changes:
    """What changed lately in `registry`, and who follows."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.followers: dict[tuple[int, int], Follower] = {}
        """By link and number."""
        self.recent: deque[Row] = deque()
        self.first = 0
        """The place of the first one of `recent`."""
        self.known: dict[SubscriberState, Form] = {}
        """The form that followers know, of each subscriber that there is."""
        self.is_fresh = False
        """Somebody may have to be answered at the end of the message."""
        self.kept_max = KEPT_MAX
        self.page_max = PAGE_MAX

    # --- what happens ---

    def note_topic(self, kind: str, name: str) -> None:
        """A topic was registered or unregistered."""
        if self.followers:
            self._add((kind, name, None))

    def note_subscriber(self, subscriber: SubscriberState) -> None:
        """A subscriber is there; perhaps another one than before."""
        if self.followers:
            form = form_of(subscriber)
            if self.known.get(subscriber) != form:
                self.known[subscriber] = form
                self._add(("subscribed", None, facts_of(subscriber)))

    def note_unsubscribed(self, subscriber: SubscriberState) -> None:
        """A subscriber is about to go."""
        if self.known.pop(subscriber, None) is not None:
            self._add(("unsubscribed", None, facts_of(subscriber)))

    def _add(self, row: Row) -> None:
        self.recent.append(row)
        self.is_fresh = True
        if len(self.recent) > self.kept_max:
            self.recent.popleft()
            self.first += 1

    # --- who follows ---

    def follow(self, link: int, number: int, request: int) -> None:
        """Answer this request when there is something; a number that is new begins with all that there is."""
        if not self.followers:
            self.known = {item: form_of(item) for item in self._registry.subscribers.values()}
        follower = self.followers.get((link, number))
        if follower is None:
            follower = self.followers[link, number] = Follower(link, number)
            self._begin(follower)
        follower.request = request
        self.is_fresh = True

    def leave(self, link: int, number: int | None = None) -> None:
        """This follower, or (None) all of the link, asks no more."""
        for key in [key for key in self.followers if key[0] == link and number in (None, key[1])]:
            del self.followers[key]
        self._forget_heard()

    def answers(self) -> list[tuple[int, int, list[Row]]]:
        """(link, request, rows) for each who waits and has something to hear."""
        self.is_fresh = False
        found = []
        for follower in self.followers.values():
            if follower.request is not None and (page := self._page(follower)):
                found.append((follower.link, follower.request, page))
                follower.request = None
        self._forget_heard()
        return found

    def _begin(self, follower: Follower, *first: Row) -> None:
        rows: list[Row] = [*first]
        rows += [("topic_registered", name, None) for name in self._registry.topics]
        rows += [("subscribed", None, facts_of(item)) for item in self._registry.subscribers.values()]
        rows.append(("complete", None, None))
        follower.ahead, follower.place = iter(rows), self.end

    def _page(self, follower: Follower) -> list[Row]:
        if follower.place < self.first:
            self._begin(follower, ("reset", None, None))
        page = list(islice(follower.ahead, self.page_max))
        start = follower.place - self.first
        changes = list(islice(self.recent, start, start + self.page_max - len(page)))
        follower.place += len(changes)
        return page + changes

    @property
    def end(self) -> int:
        """The place of what changes next."""
        return self.first + len(self.recent)

    def _forget_heard(self) -> None:
        """What everybody has heard is not kept."""
        heard = min((follower.place for follower in self.followers.values()), default=self.end)
        while self.first < heard:
            self.recent.popleft()
            self.first += 1
        if not self.followers:
            self.known = {}
