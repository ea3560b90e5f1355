"""multiprocessing.Queue: one for each subscriber; the processes of one subscriber get from the same queue.

The queue itself knows no acknowledgement, so each consumer process counts what it has handled. That is less than the
bus is asked for (it settles each event by its number), and about the cheapest that still says when everything is
done: nobody knows which event is unsettled, and what a dead consumer held is lost. The queue is not bounded: the
producer may run ahead as far as it can; a thread of the queue pickles and writes behind its back.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.queues import Queue
from pathlib import Path

from benchmarks.counters import Counter, Counters, CountingRig
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take

__all__ = ["QueueConsumer", "QueuePeer", "QueueProducer", "QueueRig"]


class QueuePeer(Peer):
    name = "mp.Queue"

    def supports(self, layout: Layout, paced: bool) -> bool:
        return True

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        spawn = multiprocessing.get_context("spawn")
        queues = [[spawn.Queue() for _ in range(layout.subscribers)] for _ in range(layout.stages)]
        try:
            yield QueueRig(queues, directory)
        finally:
            for queue in (queue for stage in queues for queue in stage):
                queue.cancel_join_thread()  # After a failure nobody reads what is left in it.
                queue.close()


class QueueRig(CountingRig):
    """Args:
    queues: Of each stage, one for each subscriber.
    """

    def __init__(self, queues: Sequence[Sequence[Queue[Data | None]]], directory: Path) -> None:
        self.counters = Counters(directory)
        self._queues = queues
        self._directory = directory
        self._served: list[Queue[Data | None]] = []
        """The queue of each consumer process."""

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        queue = self._queues[stage][subscriber]
        self._served.append(queue)
        following = self._queues[stage + 1] if stage + 1 < len(self._queues) else []
        return QueueConsumer(queue, following, self._directory)

    def producer(self) -> ProducerTicket:
        return QueueProducer(self._queues[0])

    def end(self) -> None:
        for queue in self._served:  # One marker for each process: it takes no second one.
            queue.put(None)


class QueueProducer(ProducerTicket, Source):
    def __init__(self, queues: Sequence[Queue[Data | None]]) -> None:
        self._queues = queues

    def open(self) -> AbstractContextManager[Source]:
        return nullcontext(self)

    def publish(self, items: Iterable[Data]) -> None:
        puts = [queue.put for queue in self._queues]
        for data in items:
            for put in puts:
                put(data)


class QueueConsumer(ConsumerTicket):
    def __init__(self, queue: Queue[Data | None], following: Sequence[Queue[Data | None]], directory: Path) -> None:
        self._queue = queue
        self._following = following
        self._directory = directory

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        # The end marker ends it, not `stopping`: a `get` with a timeout would cost every event a few us more.
        get, acknowledge = self._queue.get, Counter(self._directory).add
        puts = [queue.put for queue in self._following]
        ready()
        while (data := get()) is not None:
            take(data)
            for put in puts:
                put(data)
            acknowledge()
