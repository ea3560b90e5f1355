"""What the core knows of a connected process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_mp.messages import SEQUENCE_LINK_SHIFT

if TYPE_CHECKING:
    from eventbus_mp.core.dispatcher import Endpoint
    from eventbus_mp.core.spans import Span

__all__ = ["LinkState"]


class LinkState:
    """One process's link: what it hosts, writes and leases. All of it comes back when the process is gone."""

    __slots__ = ("endpoints", "last_sequence", "leases", "leaving", "number", "pid", "spans", "stale_told")

    def __init__(self, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        self.last_sequence = number << SEQUENCE_LINK_SHIFT
        self.endpoints: dict[int, Endpoint] = {}
        """By subscriber number."""
        self.spans: dict[tuple[int, int], Span] = {}
        """What it may append to, by (segment, start)."""
        self.leases: dict[tuple[int, int], Span] = {}
        """What it has views into, by (segment, start); the span counts them."""
        self.leaving = False
        """It said goodbye: its end of file is no crash."""
        self.stale_told: set[int] = set()
        """Topics it was told to look up again, so that it is told once."""
