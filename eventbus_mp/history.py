"""The answers about what happened: entries of the manager's event log, a page at a time, and their form as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventbus_mp.statistics import SubscriberKey

__all__ = ["HistoryEntry", "HistoryPage", "json_config", "json_key"]

Cursor = tuple[int, int]
"""A place in the log: a time, and how many older entries have this same time."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that happened to one event, or to several that arrived together.

    `at_ns` is on the machine's monotonic clock (`time.monotonic_ns`), which is one for all its processes.
    """

    at_ns: int
    kind: str
    """"notified", "sent", "sent_again", "completed", "skipped", "failed", "returned", "crashed", "given_up",
    "expired", "dead_lettered", "marked_completed", "marked_skipped", "settled" or "manager_replaced"."""
    events: int
    """How many events it is about."""
    topics: tuple[str, ...] = ()
    """Their topics."""
    pid: int | None = None
    """The process that did it, or that it happened to."""
    subscriber: SubscriberKey | None = None
    """For whom it happened; None: for all."""
    detail: str | int | None = None
    """Of "sent" the attempt; of what the bus skipped the reason; of "crashed" the reason for which
    its pool has killed the process; of "dead_lettered" the topic."""

    @property
    def text(self) -> str:
        """The entry as a line, without its time."""
        name = self.subscriber.text if self.subscriber is not None else ""
        template = _TEXTS.get(self.kind, self.kind)
        if self.kind == "skipped" and self.pid is None:
            template = _SKIPPED_BY_BUS
        elif self.kind == "notified" and self.pid is None:
            template = "notified by the bus"
        elif self.kind == "crashed" and self.detail is not None:
            template = _KILLED
        attempt = f", attempt {self.detail}" if isinstance(self.detail, int) and self.detail > 1 else ""
        return template.format(name=name, pid=self.pid, detail=self.detail, attempt=attempt)

    def as_dict(self) -> dict[str, Any]:
        """The fields as values that JSON has; a config that JSON does not have as its `repr`."""
        key = self.subscriber
        return {
            "at_ns": self.at_ns,
            "kind": self.kind,
            "events": self.events,
            "topics": list(self.topics),
            "pid": self.pid,
            "subscriber": json_key(key) if key is not None else None,
            "detail": self.detail,
        }


_SKIPPED_BY_BUS = "skipped for {name}: {detail}"
_KILLED = "{name}: its process {pid} was killed, because its handler {detail}"
_TEXTS = {
    "notified": "notified by process {pid}",
    "sent": "sent to {name}, process {pid}{attempt}",
    "sent_again": "sent again to {name}, process {pid}",
    "completed": "completed by {name}",
    "skipped": "skipped by {name}",
    "failed": "failed by {name}",
    "returned": "{name}: handed back by process {pid}",
    "crashed": "{name}: its process {pid} crashed",
    "given_up": "given up for {name}: {detail}",
    "dead_lettered": "sent to the dead letter topic {detail!r}",
    "marked_completed": "marked as completed for {name} by process {pid}",
    "marked_skipped": "marked as skipped for {name} by process {pid}",
    "manager_replaced": "process {pid} is the manager now",
}
"""What differs from the kind itself."""


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some entries of the log, the newest first, and how many of each kind there are."""

    entries: tuple[HistoryEntry, ...]
    counts: dict[str, int]
    """Kind -> events, of all entries that were asked for and that the log still has, on this page or not."""
    before: Cursor | None
    """What to ask for the next, older page with; None: there is none."""
    unix_offset_ns: int
    """What to add to an entry's `at_ns` for nanoseconds since 1970, as the clocks stood when this page was made."""

    def as_dict(self) -> dict[str, Any]:
        """The page as values that JSON has."""
        return {
            "entries": [entry.as_dict() for entry in self.entries],
            "counts": dict(self.counts),
            "before": list(self.before) if self.before is not None else None,
            "unix_offset_ns": self.unix_offset_ns,
        }


def json_key(key: SubscriberKey) -> dict[str, Any]:
    """A subscriber as values that JSON has."""
    return {"name": key.name, "config": json_config(key.config), "host": key.host}


def json_config(config: Any) -> Any:
    """A subscriber's config if JSON has its type, else its `repr`."""
    if config is None or isinstance(config, (str, int, float, bool)):
        return config
    if isinstance(config, (list, tuple)):
        return [json_config(item) for item in config]
    if isinstance(config, dict) and all(isinstance(name, str) for name in config):
        return {name: json_config(item) for name, item in config.items()}
    return repr(config)
