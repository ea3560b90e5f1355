"""What tests of all parts share: waiting for what another process does, publishing, and looking at one subscriber."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, TypeVar

from eventbus_mp import Event, EventBus, EventShadow
from eventbus_mp.protocol.requests import Subscribe
from eventbus_mp.statistics import SubscriberStatistics

__all__ = ["pause", "publish", "statistics_of", "subscribe_fields", "subscribe_request", "until"]

T = TypeVar("T")

PAUSE_S = 0.01
TIMEOUT_S = 60.0
"""Longer than a busy machine takes for anything; what does not come at all is a failure."""


def until(look: Callable[[], T], timeout_s: float = TIMEOUT_S, why_not: Callable[[], str] = lambda: "") -> T:
    """Look again and again until what is found is true: what was found.

    For what nobody reports, as that a file is gone. What can be waited for is waited for: an event by an inbox, the end
    of a process by `wait_for_end`, an idle bus by `drain`.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, why_not() or f"after {timeout_s:g} s it is still {found!r}"
        pause(PAUSE_S)
    return found


def pause(seconds: float) -> None:
    """The only one of these tests: between two looks, and as the pace of a process that is to be slow."""
    select.select([], [], [], seconds)


def publish(bus: EventBus, count: int, topic: str = "a") -> list[EventShadow]:
    """So many events, whose ids and data are the numbers from 0."""
    return bus.notify_many([Event(str(number), topic, number) for number in range(count)])


def statistics_of(bus: EventBus, name: str) -> SubscriberStatistics:
    """The counts of the subscriber of this name, which there is."""
    return next(item for item in bus.statistics().subscribers if item.name == name)


def subscribe_fields(
    name: str,
    patterns: list[Any],
    credit: int = 10,
    *,
    config: bytes = b"\xc0",
    broadcast: bool = False,
    threads: int = 1,
    scope: str = "host",
    host: str = "",
    forwards: bool = False,
    bound: tuple[int, int, str] = (0, 0, "block"),
) -> tuple[Any, ...]:
    """What travels of a `Subscribe`, in its order."""
    return name, config, patterns, credit, broadcast, threads, scope, host, forwards, *bound


def subscribe_request(
    link: int, request: int, name: str, patterns: list[Any], credit: int = 10, **more: Any
) -> Subscribe:
    """A `Subscribe` with these fields, and `more` of `subscribe_fields`."""
    return Subscribe(link, request, *subscribe_fields(name, patterns, credit, **more))
