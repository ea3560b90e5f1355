"""What a bridge says of itself and of the other hosts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BridgeStatus", "HostStatus"]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """Another host, as this one sees it."""

    name: str
    is_away: bool
    heard_s: float
    """How long ago it last said something."""
    unsettled: int
    """Deliveries that were sent there and are not settled."""
    oldest_s: float | None
    """How long ago the oldest of these was sent."""
    problem: str
    """Why nothing is sent there; empty: it is."""


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """What a bridge does, and has done since it began."""

    state: str
    """"starting", "bridging", "waiting" (for the bus or the network), "stopped" or "failed"."""
    is_connected: bool = False
    """Whether a server of the network is there."""
    sent: int = 0
    """Events that were sent to other hosts; one that was sent again counts again."""
    imported: int = 0
    """Events that came from other hosts."""
    broken: int = 0
    """Letters that could not be read."""
    hosts: tuple[HostStatus, ...] = ()
