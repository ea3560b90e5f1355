"""Who sends how much to whom. A new one is an entry here; what else it needs belongs into `measure.py`."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.interface import Data

__all__ = ["TOPOLOGIES", "Topology", "make_data"]


@dataclass(frozen=True)
class Topology:
    """One producer, and its consumer processes."""

    name: str
    subscribers: int = 1
    processes_each: int = 1
    """Processes that share one subscriber's events."""
    events_per_s: int = 0
    """0: as fast as it goes, and throughput is what counts; else the pace, and latency is what counts."""

    @property
    def is_latency(self) -> bool:
        return self.events_per_s > 0


TOPOLOGIES: tuple[Topology, ...] = (
    Topology("one-to-one"),
    Topology("one-to-four", subscribers=4),
    Topology("two-workers-competing", processes_each=2),
    Topology("one-way-latency", events_per_s=1_000),
)


def make_data(n: int, sent_ns: int = 0) -> Data:
    """An event's data: about 150 bytes, encoded with msgpack or pickle."""
    return {
        "n": n,
        "sent_ns": sent_ns,
        "customer": "Ada Lovelace",
        "email": "ada@example.org",
        "total": 129.5,
        "currency": "EUR",
        "items": ["book", "lamp", "chair"],
        "paid": True,
        "address": "12 Long Street, Springfield",
    }
