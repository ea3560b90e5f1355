"""The snapshot of a bus: all its numbers at one moment, as one tree of values with a stable JSON form.

`Snapshot.as_dict()` has the same names as the fields, tuples as lists, and a config that JSON does not have as its
`repr`. Fields may be added to it; none changes its meaning or goes without a new `version`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from eventbus_mp.history import json_config
from eventbus_mp.statistics import SubscriberKey

__all__ = [
    "EventCounts",
    "ManagerSnapshot",
    "MemorySnapshot",
    "ProcessSnapshot",
    "Snapshot",
    "SubscriberSnapshot",
    "TopicSnapshot",
    "quantile_ns",
]

VERSION = 1


@dataclass(frozen=True, slots=True)
class EventCounts:
    """Events of the whole bus."""

    notified: int
    """That have reached the manager since the bus started."""
    dropped: int
    """That nobody was subscribed to. A producer that knows it does not even send them."""
    unsettled: int
    """That somebody still has to settle."""


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """The bus's memory for events."""

    bytes_max: int
    bytes_used: int
    """Of spans that are granted to processes or hold events."""
    bytes_leased: int
    """Of spans that cannot be reused because a process has a view into them."""
    bytes_spilled: int
    """Of spans that lie in files, because the memory was used up when a handler published; not part of `bytes_used`."""
    bytes_of_the_gone: int
    """Of spans that were written by processes that have left."""
    segments: int


@dataclass(frozen=True, slots=True)
class ManagerSnapshot:
    """The manager. A takeover changes its pid, and neither its incarnation nor its uptime."""

    pid: int
    standby_pid: int | None
    """None: there is none at this moment."""
    incarnation: str
    """Another one after the bus has ended and started again: then all counts begin anew."""
    takeovers: int
    uptime_s: float
    journal_bytes: int
    """What its standby would have to catch up with."""
    journal_bytes_max: int
    is_end_asked: bool = False
    """A signal has asked it to end: it does as soon as nobody needs the bus."""
    leaves_in_s: float | None = None
    """When it leaves unless a process connects: nobody uses the bus, and this is `manager_idle_s` or, if something
    waits, the grace of the subscribers for which it does. None: the bus is in use."""


@dataclass(frozen=True, slots=True)
class TopicSnapshot:
    """One topic."""

    name: str
    notified: int
    """Events that have reached the manager since the topic was registered."""
    delivered: int
    """Deliveries that they made: one for each subscriber of an event."""
    dropped: int
    """Events that nobody was subscribed to."""
    unsettled: int
    """Events that somebody still has to settle."""
    bytes_unsettled: int
    """Of the payloads of unsettled events, and of those that arrived together with them."""
    oldest_age_s: float | None
    """How long ago the oldest unsettled event, or one that arrived together with it, was notified; None: there is none.
    """


@dataclass(frozen=True, slots=True)
class SubscriberSnapshot:
    """One subscriber; the counts since it subscribed."""

    name: str
    config: Any
    patterns: tuple[str, ...]
    pids: tuple[int, ...]
    """The processes that host it."""
    grace_left_s: float | None
    """How long it stays without one; None: a process hosts it."""
    queued: int
    in_flight: int
    completed: int
    skipped: int
    skip_reasons: dict[str, int]
    """Reason -> deliveries; only reasons that are counted."""
    redelivered: int
    handling_log2_ns: tuple[int, ...]
    """How long its handlers take: element k counts deliveries of less than 2^k ns, and of 2^(k-1) ns or more. The last
    one has all that took longer. Deliveries that are settled later than in a handler's call are not among them."""
    handling_p50_s: float | None
    """Half of these took no longer, rounded up to the end of a bucket; None: there are none."""
    handling_p99_s: float | None
    recent_skips: tuple[tuple[str, str], ...]
    """(event id, reason), the newest last; at most 100."""
    scope: str = "host"
    """"host", "cluster" or "local": see `EventBus.on`."""
    host: str | None = None
    """The host that it is on; None: this one."""
    backlog_max: int | None = None
    """How many unsettled events it may have; None: any number."""
    backlog_bytes_max: int | None = None
    backlog_bytes: int | None = None
    """How many bytes these have; None: they have no bound, and are not counted."""
    when_full: str | None = None
    """What happens beyond that, "block" or "skip"; None: there is no bound."""

    @property
    def key(self) -> SubscriberKey:
        """Its name, its config and its host."""
        return SubscriberKey(self.name, self.config, self.host)


@dataclass(frozen=True, slots=True)
class ProcessSnapshot:
    """One process of the bus."""

    pid: int
    role: str
    """"client", "worker", "manager" or "standby"."""
    command: str
    """Its command line; empty: it cannot be read from here."""
    connected_s: float | None = None
    """Since when it is connected; None: it is a manager or its standby, as everything below is 0 for them."""
    in_flight: int = 0
    """Deliveries that it holds."""
    bytes_written: int = 0
    """Of spans that it writes, or has written and that are in use."""
    views: int = 0
    """Events that it has views into and need hold no delivery of."""
    bytes_viewed: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The numbers of a bus at the moment when the manager answered."""

    bus: str
    manager: ManagerSnapshot
    events: EventCounts
    memory: MemorySnapshot
    topics: tuple[TopicSnapshot, ...]
    """In the order of their registration; with `topics_max` those with the most unsettled events, the most first."""
    subscribers: tuple[SubscriberSnapshot, ...]
    processes: tuple[ProcessSnapshot, ...]
    version: int = VERSION
    """Of the form of `as_dict`."""
    topics_total: int = 0
    """How many the bus has; `topics` may be a part of them."""

    def as_dict(self) -> dict[str, Any]:
        """The whole tree as values that JSON has."""
        plain: dict[str, Any] = _plain(self)
        return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return json_config(value)


def quantile_ns(log2: list[int] | tuple[int, ...], share: float) -> int | None:
    """The end of the bucket in which this share of all is reached; None: the histogram is empty."""
    left = share * sum(log2)
    if not left:
        return None
    for exponent, count in enumerate(log2):
        left -= count
        if left <= 0:
            return 1 << exponent
    return 1 << len(log2) - 1
