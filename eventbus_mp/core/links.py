"""What the core knows of a connected process: its link, its leases, and what is open after a takeover."""

from __future__ import annotations

from dataclasses import dataclass

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.directions import Direction
from eventbus_mp.core.entities import Endpoint
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.receipt_boxes import ReceiptBox, ReceiptPage
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT

__all__ = ["Blame", "Lease", "LinkState", "Resync"]


class Lease:
    """A process's views into one event. The event's span is not recycled while it exists."""

    __slots__ = ("is_warned", "length", "offset", "since_ns", "span", "topic", "views")

    def __init__(self, span: Span, topic: str, offset: int, length: int, now_ns: int) -> None:
        self.span = span
        self.topic = topic
        self.offset = offset
        self.length = length
        self.since_ns = now_ns
        self.views = 0
        self.is_warned = False
        """The manager's log has a warning of it; one is enough."""


@dataclass(frozen=True)
class Blame:
    """What a process is killed for: a delivery whose handler took too long."""

    subscriber: int
    sequence: int
    """0: whatever the process has of that subscriber."""
    reason: str


class Resync:
    """What a manager that died may or may not have sent to a process, until the process reports what it has."""

    __slots__ = ("in_flight", "manager", "spans")

    def __init__(
        self, manager: int, in_flight: dict[int, dict[EventBatch, int]], spans: dict[tuple[int, int], Span]
    ) -> None:
        self.manager = manager
        """The pid of the manager that asks."""
        self.in_flight = in_flight
        """By subscriber number."""
        self.spans = spans


class LinkState:
    """One process's link: what it hosts, writes and leases. All of it comes back when the process is gone."""

    __slots__ = (
        "blames",
        "boxes",
        "direction",
        "endpoints",
        "idle_deadline_ns",
        "last_sequence",
        "leased_bytes",
        "leases",
        "leaving",
        "number",
        "observes",
        "pid",
        "reasons",
        "required",
        "required_topics",
        "resync",
        "role",
        "since_ns",
        "spans",
        "stale_reported",
        "tagged",
    )

    def __init__(self, number: int, pid: int, now_ns: int = 0) -> None:
        self.number = number
        self.pid = pid
        self.role = "client"
        self.since_ns = now_ns
        """When it connected."""
        self.last_sequence = number << SEQUENCE_LINK_SHIFT
        """The newest sequence number that it used; its numbers only grow."""
        self.endpoints: dict[int, Endpoint] = {}
        """By subscriber number."""
        self.spans: dict[tuple[int, int], Span] = {}
        """What it may append to, by (segment, start)."""
        self.leases: dict[int, Lease] = {}
        """What it has views into, by sequence, the oldest first."""
        self.leased_bytes = 0
        """Of the events in `leases`."""
        self.reasons: dict[int, str] = {}
        """The texts that it has given numbers to, as reasons for skips."""
        self.direction: Direction | None = None
        """Where its events go, if it has said so."""
        self.leaving = False
        """It said goodbye: its end of file is not a crash."""
        self.blames: dict[Blame, None] = {}
        """Its pool kills it, for these: its end of file accuses nothing else."""
        self.observes = False
        """It only looks: the bus does not live on for it."""
        self.idle_deadline_ns: int | None = None
        """The bus's when it connected: if it only looks, that one goes on."""
        self.required: tuple[str, ...] = ()
        """Names of the subscribers without which it publishes nothing."""
        self.required_topics: set[int] = set()
        """Numbers of the topics that it publishes to, because all of these get their events."""
        self.stale_reported: set[int] = set()
        """Numbers of topics that it has been asked to look up again: once is enough."""
        self.boxes: dict[int, ReceiptBox] = {}
        """The receipts that it has open, by number."""
        self.tagged: dict[ReceiptPage, None] = {}
        """Where tags of events are that have not come yet."""
        self.resync: Resync | None = None
        """From the replacement of the manager until the process has reported what it has."""

    def begin_resync(self, manager: int) -> None:
        """A new manager, of this pid, goes on: note what the old one may have sent."""
        in_flight = {number: dict(endpoint.in_flight) for number, endpoint in self.endpoints.items()}
        self.resync = Resync(manager, in_flight, dict(self.spans))
        for endpoint in self.endpoints.values():
            endpoint.is_resyncing = True
        self.stale_reported.clear()
