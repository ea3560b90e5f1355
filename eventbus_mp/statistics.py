"""The answers to users' questions about the bus: Subscriber, Watcher, the statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eventbus_mp.ids import EventId

__all__ = ["BusStatistics", "Subscriber", "SubscriberKey", "SubscriberStatistics", "Watcher", "WatcherPage"]


class SubscriberKey(NamedTuple):
    """A subscriber's identity: the listener's name, its config, and the host that it is on."""

    name: str
    config: Any = None
    host: str | None = None
    """None: this one. A subscriber of another host is served by the bridge of this one."""

    @property
    def text(self) -> str:
        """The name as it is shown: `bill`, or `bill@B` of host B."""
        return self.name if self.host is None else f"{self.name}@{self.host}"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One subscriber: its listener (`name` and `config`), its patterns, and the processes that host it now."""

    name: str
    config: Any
    patterns: tuple[str, ...]
    pids: tuple[int, ...]
    scope: str = "host"
    """"host", "cluster" or "local": see `EventBus.on`."""
    host: str | None = None
    """The host that it is on; None: this one."""
    home_pids: tuple[int, ...] = ()
    """Those of `pids` that run its handler, or take from its inbox. The others forward its events to other hosts."""

    @property
    def key(self) -> SubscriberKey:
        """Its name, its config and its host."""
        return SubscriberKey(self.name, self.config, self.host)

    @property
    def listener(self) -> str | tuple[str, Any] | SubscriberKey:
        """The listener by name, as `unsubscribe` and its siblings take it: `name`, or (name, config) if it has one, or
        the key of one of another host."""
        if self.host is not None:
            return self.key
        return self.name if self.config is None else (self.name, self.config)


@dataclass(frozen=True, slots=True)
class Watcher:
    """The subscribers that an event was delivered to, and those that have settled it."""

    subscribers: tuple[SubscriberKey, ...] = ()
    completers: tuple[SubscriberKey, ...] = ()
    skippers: tuple[SubscriberKey, ...] = ()

    @property
    def waiting(self) -> tuple[SubscriberKey, ...]:
        """The subscribers that still have to settle the event."""
        done = (*self.completers, *self.skippers)
        return tuple(key for key in self.subscribers if key not in done)


class WatcherPage(dict[EventId, Watcher]):
    """Watchers of unsettled events, by id: all of them, or a part."""

    next: int | None = None
    """What to give as `after` for the events behind this page; None: there are none."""


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """One subscriber's deliveries: counts since it subscribed, and its latest skips with their reasons.

    `queued` and `sent` are unsettled deliveries: those that wait for a process, and those that a process holds.
    """

    name: str
    config: Any
    queued: int
    sent: int
    completed: int
    skipped: int
    redelivered: int
    recent_skips: tuple[tuple[EventId, str], ...] = ()
    """(event id, reason), the newest last; at most 100."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason -> how many were skipped for it. "not given" and, after 64 reasons, "other" are among them."""
    grace_left_s: float | None = None
    """No process hosts it: how long it stays for the next one, with all that waits for it; None: one hosts it."""
    host: str | None = None
    """The host that it is on; None: this one."""

    @property
    def key(self) -> SubscriberKey:
        """Its name, its config and its host."""
        return SubscriberKey(self.name, self.config, self.host)


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """A snapshot of the bus, taken when the manager answered."""

    topics: int
    subscribers: tuple[SubscriberStatistics, ...]
    links: int
    """Connected processes."""
    manager_pid: int
    events_notified: int
    """Events that have arrived since the manager started."""
    events_dropped: int
    """Those of them that had no subscriber, or whose topic was unregistered, when they arrived."""
    events_unsettled: int
    memory_bytes_max: int
    memory_bytes_used: int
    """Bytes of spans that are granted to processes or hold unsettled events."""
    memory_bytes_leased: int
    """Bytes of spans that cannot be recycled because a process has a view into them."""
    segments: int
    span_holders: dict[int, int] = field(default_factory=dict)
    """pid -> bytes of the spans that it writes, or has written and that are still in use."""
    lease_holders: dict[int, int] = field(default_factory=dict)
    """pid -> bytes of the events that it has views into and holds no delivery of."""
    leaves_in_s: float | None = None
    """When the manager leaves unless a process connects, as a handle of `EventBus.attach` sees it; None: the bus is in
    use."""
