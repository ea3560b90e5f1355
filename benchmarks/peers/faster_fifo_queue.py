"""faster-fifo: a queue in shared memory under one lock, written in C++; one for each subscriber.

`put` one by one, as an event comes; consumers `get_many`, which is what it is fast with. Events are pickled, copied
into the ring and out of it again, so an array is copied three times for each subscriber. The ring is bounded and the
producer waits for room.

It does less than the bus: no acknowledgement (each consumer process counts what it has handled), a process that dies
holding the lock stops everybody, and what a dead consumer had taken is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.counters import Counter, Counters, CountingRig
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take

__all__ = ["FasterFifoConsumer", "FasterFifoPeer", "FasterFifoProducer", "FasterFifoRig"]

RING_BYTES_MIN = 4 << 20
RING_EVENTS = 8
"""How many arrays have room in the ring."""
LOOK_INTERVAL_S = 0.05
PUT_TIMEOUT_S = 60.0
BATCH = 256


class FasterFifoPeer(Peer):
    name = "faster-fifo"
    requires = ("faster_fifo",)

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        from faster_fifo import Queue

        size = max(RING_BYTES_MIN, RING_EVENTS * (layout.array_bytes + 1024))
        yield FasterFifoRig([[Queue(size) for _ in range(layout.subscribers)] for _ in range(layout.stages)], directory)


class FasterFifoRig(CountingRig):
    def __init__(self, queues: list[list[Any]], directory: Path) -> None:
        self.counters = Counters(directory)
        self._queues = queues
        self._directory = directory

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        following = self._queues[stage + 1] if stage + 1 < len(self._queues) else []
        return FasterFifoConsumer(self._queues[stage][subscriber], following, self._directory)

    def producer(self) -> ProducerTicket:
        return FasterFifoProducer(self._queues[0])


class FasterFifoProducer(ProducerTicket, Source):
    def __init__(self, queues: list[Any]) -> None:
        self._queues = queues

    def open(self) -> AbstractContextManager[Source]:
        return nullcontext(self)

    def publish(self, items: Iterable[Data]) -> None:
        puts = [queue.put for queue in self._queues]
        for data in items:
            for put in puts:
                put(data, timeout=PUT_TIMEOUT_S)


class FasterFifoConsumer(ConsumerTicket):
    def __init__(self, queue: Any, following: list[Any], directory: Path) -> None:
        self._queue = queue
        self._following = FasterFifoProducer(following)
        self._directory = directory

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        from queue import Empty

        get_many, publish = self._queue.get_many, self._following.publish
        acknowledge = Counter(self._directory).add
        ready()
        while not stopping.is_set():
            try:
                batch = get_many(timeout=LOOK_INTERVAL_S, max_messages_to_get=BATCH)
            except Empty:
                continue
            for data in batch:
                take(data)
                publish((data,))
                acknowledge()
