"""Calls that have begun: what a `before_` hook leaves for its `after_` hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context

from eventbus_mp import Event, EventShadow

__all__ = ["Publishing", "is_suppressed", "topic_of"]

T = TypeVar("T")


class Publishing(Generic[T]):
    """What was left for each call that publishes, by its first event: loans need not end in the order in which they
    began, and two threads may publish events with one id."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, Any], list[T]] = {}

    def leave(self, events: Sequence[Event], value: T) -> None:
        """This call has begun."""
        self._left.setdefault((events[0].topic, events[0].id), []).append(value)

    def take(self, events: Sequence[Event]) -> T | None:
        """What was left for the call, which has ended; None: nothing."""
        key = events[0].topic, events[0].id
        found = self._left.get(key)
        if not found:
            return None
        value = found.pop()
        if not found:
            self._left.pop(key, None)
        return value


def is_suppressed(current: Context) -> bool:
    """Whether this is done by an exporter. If that used the bus and were traced, each span would cause the next one."""
    return bool(current.get(_SUPPRESS_INSTRUMENTATION_KEY))


def topic_of(items: Sequence[Event | EventShadow]) -> str | None:
    """The topic of all of them; None: they have several, or there are none."""
    if len(items) == 1:
        return items[0].topic
    topics = {item.topic for item in items}
    return topics.pop() if len(topics) == 1 else None
