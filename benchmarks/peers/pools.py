"""What the pools have in common: they bring their own worker processes, and hand each event to one of them."""

from __future__ import annotations

from typing import Any

from eventbus_mp.bench.interface import Layout, Peer
from eventbus_mp.bench.payloads import Data
from eventbus_mp.bench.task import burn

__all__ = ["PoolPeer", "handle", "meet"]

MEET_TIMEOUT_S = 30.0


class PoolPeer(Peer):
    """Competing workers are all it has: a result goes back to the one who asked, and nobody else sees the event."""

    def supports(self, layout: Layout, paced: bool) -> bool:
        is_plain = layout.producers == layout.subscribers == layout.stages == 1
        return is_plain and layout.processes_each > 1 and not layout.array_bytes and not paced


def handle(task_ns: int, data: Data) -> int:
    """A worker's function."""
    burn(task_ns)
    n: int = data["n"]
    return n


def meet(barrier: Any) -> None:
    """A worker's beginning: none works before all are there."""
    barrier.wait(MEET_TIMEOUT_S)
