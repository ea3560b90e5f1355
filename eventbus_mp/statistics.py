"""What users ask of the bus: Subscriber, Watcher, the statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["BusStatistics", "Subscriber", "SubscriberKey", "SubscriberStatistics", "Watcher"]


class SubscriberKey(NamedTuple):
    """What tells two subscribers apart: the listener's name and its config."""

    name: str
    config: Any = None


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One subscriber, as the manager knows it; `pids` are the processes that host it now."""

    name: str
    config: Any
    patterns: tuple[str, ...]
    pids: tuple[int, ...]

    @property
    def key(self) -> SubscriberKey:
        return SubscriberKey(self.name, self.config)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who was told of an event, and who has settled it."""

    subscribers: tuple[SubscriberKey, ...] = ()
    completers: tuple[SubscriberKey, ...] = ()
    skippers: tuple[SubscriberKey, ...] = ()

    @property
    def waiting(self) -> tuple[SubscriberKey, ...]:
        """The subscribers that still have to settle the event."""
        done = (*self.completers, *self.skippers)
        return tuple(key for key in self.subscribers if key not in done)


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """One subscriber's deliveries: counts since it subscribed, and its latest skips with their reasons."""

    name: str
    config: Any
    queued: int
    sent: int
    completed: int
    skipped: int
    redelivered: int
    recent_skips: tuple[tuple[str, str], ...] = ()
    """(event id, reason), the newest last; bounded."""


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """A snapshot of the bus, for logs, the CLI and tests; a few microseconds old when you read it."""

    topics: int
    subscribers: tuple[SubscriberStatistics, ...]
    links: int
    """Connected processes."""
    manager_pid: int
    events_notified: int
    """Events that arrived since the manager started."""
    events_dropped: int
    """Those of them that had no subscriber, or whose topic was gone, when they arrived."""
    events_unsettled: int
    memory_bytes_max: int
    memory_bytes_used: int
    """Bytes of spans that are leased to processes or hold unsettled events."""
    memory_bytes_leased: int
    """Bytes of spans kept from recycling by views."""
    segments: int
    span_holders: dict[int, int] = field(default_factory=dict)
    """pid -> bytes of spans it writes or wrote that are still in use."""
    lease_holders: dict[int, int] = field(default_factory=dict)
    """pid -> bytes of settled or foreign events that it has views into."""
