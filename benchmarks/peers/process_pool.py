"""concurrent.futures.ProcessPoolExecutor: `submit` for each event; the acknowledgement is its future's result.

Calls and results are pickled and cross two pipes; a thread of the executor feeds one and reads the other. It hands out
only one call more than it has workers, so a worker waits for the parent after each task. A worker that dies breaks the
whole pool.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from benchmarks.peers.pools import PoolPeer, handle, meet
from eventbus_mp.bench.interface import Data, Layout, PoolRig, ProducerTicket, Rig, Source

__all__ = ["ExecutorPeer", "ExecutorRig"]


class ExecutorPeer(PoolPeer):
    name = "ProcessPoolExecutor"

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        spawn = multiprocessing.get_context("spawn")
        others = {child.pid for child in multiprocessing.active_children()}
        barrier = spawn.Barrier(layout.processes_each)
        with ProcessPoolExecutor(layout.processes_each, spawn, meet, (barrier,)) as executor:
            for future in [executor.submit(int) for _ in range(layout.processes_each)]:
                future.result()
            workers = [child.pid for child in multiprocessing.active_children() if child.pid not in others]
            yield ExecutorRig(executor, [pid for pid in workers if pid is not None], layout.task_ns)


class ExecutorRig(PoolRig, Source):
    def __init__(self, executor: ProcessPoolExecutor, workers: list[int], task_ns: int) -> None:
        self._executor = executor
        self._workers = workers
        self._handle = partial(handle, task_ns)
        self._futures: list[Future[int]] = []
        self._handled = (0, 0)

    def source(self) -> AbstractContextManager[Source]:
        return nullcontext(self)

    def producer(self) -> ProducerTicket:
        raise NotImplementedError("only the process that has the executor can submit")

    def publish(self, items: Iterable[Data]) -> None:
        submit, function = self._executor.submit, self._handle
        self._futures = [submit(function, data) for data in items]

    def finish(self, deliveries: int, timeout_s: float) -> None:
        numbers = [future.result(timeout_s) for future in self._futures]
        self._handled = (self._handled[0] + len(numbers), self._handled[1] + sum(numbers))

    def workers(self) -> list[int]:
        return self._workers

    def handled(self) -> tuple[int, int]:
        return self._handled
