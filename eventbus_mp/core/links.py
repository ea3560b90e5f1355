"""What the core knows of a connected process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT

if TYPE_CHECKING:
    from eventbus_mp.core.batches import EventBatch
    from eventbus_mp.core.dispatcher import Endpoint
    from eventbus_mp.core.spans import Span

__all__ = ["LEASES_MAX", "Lease", "LinkState", "Resync", "check_waits"]

WAITS_MAX = 1024
"""What one process may wait for at once, of each kind; it waits for as many as it has threads."""
LEASES_MAX = 1 << 17
"""Events that one process may have views into, beyond those in its hands."""


def check_waits(count: int, what: str) -> None:
    """Raise `ProtocolError` if a process that waits for so many of something wants one more."""
    if count >= WAITS_MAX:
        raise ProtocolError(f"it waits for {count} {what} at once")


class Lease:
    """A process's views into one event. Its span is not recycled while it exists."""

    __slots__ = ("is_warned", "length", "offset", "since_ns", "span", "topic", "views")

    def __init__(self, span: Span, topic: str, offset: int, length: int, now_ns: int) -> None:
        self.span = span
        self.topic = topic
        self.offset = offset
        self.length = length
        self.since_ns = now_ns
        self.views = 0
        self.is_warned = False
        """It was warned of."""


class Resync:
    """What a manager that died may have sent and may not."""

    __slots__ = ("in_flight", "manager", "spans")

    def __init__(
        self, manager: int, in_flight: dict[int, dict[EventBatch, int]], spans: dict[tuple[int, int], Span]
    ) -> None:
        self.manager = manager
        """The pid of the one that asks."""
        self.in_flight = in_flight
        """By subscriber."""
        self.spans = spans


class LinkState:
    """One process's link: what it hosts, writes and leases. All of it comes back when the process is gone."""

    __slots__ = (
        "endpoints",
        "last_sequence",
        "leases",
        "leaving",
        "number",
        "pid",
        "resync",
        "spans",
        "stale_reported",
    )

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        self.last_sequence = number << SEQUENCE_LINK_SHIFT
        self.endpoints: dict[int, Endpoint] = {}
        """By subscriber number."""
        self.spans: dict[tuple[int, int], Span] = {}
        """What it may append to, by (segment, start)."""
        self.leases: dict[int, Lease] = {}
        """What it has views into, by sequence, the oldest first."""
        self.leaving = False
        """It said goodbye: its end of file is no crash."""
        self.stale_reported: set[int] = set()
        """Topics it was told to look up again, so that it is told once."""
        self.resync: Resync | None = None
        """Since the manager was replaced, until the process has told what it has."""

    def begin_resync(self, manager: int) -> None:
        """Another manager goes on, of this pid."""
        in_flight = {number: dict(endpoint.in_flight) for number, endpoint in self.endpoints.items()}
        self.resync = Resync(manager, in_flight, dict(self.spans))
        for endpoint in self.endpoints.values():
            endpoint.is_resyncing = True
        self.stale_reported.clear()
