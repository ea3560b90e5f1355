"""multiprocess.Pool: `imap_unordered` over the events, one a chunk; the acknowledgement is the result that comes back.

multiprocess is multiprocessing with dill, so lambdas and closures travel; that makes its pickling slower. Workers get
from one queue under a shared lock. A worker that dies takes its task along: its result never comes, and the parent
waits for ever.

`multiprocess.Pool-chunks` sends 64 events a chunk: that is how batch jobs use it, an event waits for its chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.pools import PoolPeer, handle, meet
from eventbus_mp.bench.interface import Data, Layout, PoolRig, ProducerTicket, Rig, Source

__all__ = ["MultiprocessPoolPeer", "MultiprocessPoolRig"]


class MultiprocessPoolPeer(PoolPeer):
    requires = ("multiprocess",)

    def __init__(self, name: str, chunk: int) -> None:
        self.name = name
        self._chunk = chunk

    def supports(self, layout: Layout, paced: bool) -> bool:
        return super().supports(layout, paced) and (self._chunk == 1 or not layout.task_ns)

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        import multiprocess

        spawn = multiprocess.get_context("spawn")
        others = {child.pid for child in multiprocess.active_children()}
        barrier = spawn.Barrier(layout.processes_each)
        with spawn.Pool(layout.processes_each, meet, (barrier,)) as pool:
            workers = [child.pid for child in multiprocess.active_children() if child.pid not in others]
            yield MultiprocessPoolRig(pool, workers, layout.task_ns, self._chunk)
            pool.close()
            pool.join()


class MultiprocessPoolRig(PoolRig, Source):
    def __init__(self, pool: Any, workers: list[int], task_ns: int, chunk: int) -> None:
        self._pool = pool
        self._workers = workers
        self._handle = partial(handle, task_ns)
        self._chunk = chunk
        self._results: Iterator[int] = iter(())
        self._handled = (0, 0)

    def source(self) -> AbstractContextManager[Source]:
        return nullcontext(self)

    def producer(self) -> ProducerTicket:
        raise NotImplementedError("only the process that has the pool can hand out tasks")

    def publish(self, items: Iterable[Data]) -> None:
        self._results = self._pool.imap_unordered(self._handle, items, self._chunk)

    def finish(self, deliveries: int, timeout_s: float) -> None:
        events, numbers = self._handled
        for n in self._results:
            events += 1
            numbers += n
        self._handled = (events, numbers)

    def workers(self) -> list[int]:
        return self._workers

    def handled(self) -> tuple[int, int]:
        return self._handled
