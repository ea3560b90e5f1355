"""eventbus_mp's WorkerPool: `notify` for each event; the pool's workers share them, and each one is completed.

The handler runs on a worker's main thread, one event at a time; the next ones already lie in its pipe. A worker that
dies is replaced, and what it held goes to its siblings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path

from benchmarks.counters import Counter, Counters
from benchmarks.peers.pools import PoolPeer, handle
from eventbus_mp import Event, EventBus, WorkerPool
from eventbus_mp.bench.bus import BusSource, running_bus, topic
from eventbus_mp.bench.interface import Layout, PoolRig, ProducerTicket, Rig, Source

__all__ = ["BusPoolPeer", "BusPoolRig"]


class BusPoolPeer(PoolPeer):
    name = "bus-WorkerPool"

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        with running_bus(directory, [topic(0)]) as (bus, manager_pid):
            pool = WorkerPool(bus, processes=layout.processes_each, start_method="spawn")
            pool.on(topic(0), name="task")(partial(_work, layout.task_ns, directory))
            with pool:
                yield BusPoolRig(bus, manager_pid, directory)


class BusPoolRig(PoolRig):
    def __init__(self, bus: EventBus, manager_pid: int, directory: Path) -> None:
        self.counters = Counters(directory)
        self._bus = bus
        self._manager_pid = manager_pid

    def source(self) -> AbstractContextManager[Source]:
        return nullcontext(BusSource(self._bus, batch=0))

    def producer(self) -> ProducerTicket:
        raise NotImplementedError("pools are measured with one producer")

    def finish(self, deliveries: int, timeout_s: float) -> None:
        self._bus.drain(timeout_s=timeout_s)

    def servers(self) -> dict[str, int]:
        return {"manager": self._manager_pid}

    def workers(self) -> list[int]:
        return list(self._bus.subscribers(topic(0))[0].pids)

    def handled(self) -> tuple[int, int]:
        return self.counters.totals()


def _work(task_ns: int, directory: Path, event: Event) -> None:
    _counter(directory).add(1, handle(task_ns, event.data))


@cache
def _counter(directory: Path) -> Counter:
    """This worker's."""
    return Counter(directory)
