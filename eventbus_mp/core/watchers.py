"""The watcher of an event, as it travels: who had to settle it, and who has."""

from __future__ import annotations

from eventbus_mp.core.event_batch import EventBatch

__all__ = ["EMPTY_WATCHER", "WireWatcher", "describe"]

WireWatcher = dict[str, list[list[object]]]
"""`subscribers`, `completers` and `skippers`, each a list of [name, config, host]."""

EMPTY_WATCHER: WireWatcher = {"subscribers": [], "completers": [], "skippers": []}
"""The watcher of an event that nobody subscribes to."""


def describe(batch: EventBatch, bit: int) -> WireWatcher:
    """The watcher of one event. A delivery that is neither unsettled nor completed was skipped."""
    subscribers: list[list[object]] = []
    completers: list[list[object]] = []
    skippers: list[list[object]] = []
    for row, subscriber in enumerate(batch.route.subscribers):
        key: list[object] = list(subscriber.key)
        subscribers.append(key)
        if batch.completed[row] & bit:
            completers.append(key)
        elif not batch.unsettled[row] & bit:
            skippers.append(key)
    return {"subscribers": subscribers, "completers": completers, "skippers": skippers}
