"""Who sends how much to whom. A new one is an entry here; what else it needs belongs into `measure.py`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from eventbus_mp.bench.interface import Layout
from eventbus_mp.bench.payloads import KIB, MIB, Payload

__all__ = ["QUICK", "TOPOLOGIES", "Topology"]

TASK_NS = 1_000_000


ONE_TO_ONE = Layout()
SMALL_EVENT = Payload()


@dataclass(frozen=True)
class Topology:
    """Producers, consumer processes, and what passes between them."""

    name: str
    layout: Layout = ONE_TO_ONE
    payload: Payload = SMALL_EVENT
    events_per_s: int = 0
    """0: as fast as it goes, and throughput is what counts; else the pace, and latency is what counts."""

    @property
    def is_latency(self) -> bool:
        return self.events_per_s > 0

    @property
    def is_pool(self) -> bool:
        return self.layout.task_ns > 0

    def missing(self) -> str | None:
        """Why it cannot run here; None when it can."""
        has_numpy = importlib.util.find_spec("numpy") is not None
        return None if has_numpy or not self.payload.array_bytes else "not installed: numpy"

    @property
    def deliveries_each(self) -> int:
        """How many acknowledgements one event needs."""
        return self.layout.subscribers * self.layout.stages


SMALL = (
    Topology("one-to-one"),
    Topology("one-to-four", Layout(subscribers=4)),
    Topology("four-to-one", Layout(producers=4)),
    Topology("two-workers-competing", Layout(processes_each=2)),
    Topology("four-workers-competing", Layout(processes_each=4)),
    Topology("chain-of-three", Layout(stages=3)),
)
LATENCY = (
    Topology("one-way-latency", events_per_s=1_000),
    Topology("latency-under-load", events_per_s=10_000),
)
POOL = (Topology("cpu-pool", Layout(processes_each=2, task_ns=TASK_NS)),)
SIZES = (Payload(4 * KIB), Payload(64 * KIB), Payload(1 * MIB), Payload(16 * MIB))


def _arrays(base: Topology) -> tuple[Topology, ...]:
    return tuple(
        Topology(f"{base.name}-{size.name}", replace(base.layout, array_bytes=size.array_bytes), size) for size in SIZES
    )


TOPOLOGIES: tuple[Topology, ...] = (*SMALL, *_arrays(SMALL[0]), *_arrays(SMALL[1]), *LATENCY, *POOL)
QUICK = ("one-to-one", "one-to-four", "one-to-four-1MiB", "one-way-latency", "cpu-pool")
