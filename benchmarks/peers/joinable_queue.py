"""multiprocessing.JoinableQueue: like `multiprocessing.Queue`, with the standard library's own acknowledgement.

Consumers call `task_done` for each event, and the producer joins the queues. That is a semaphore and a condition in
shared memory: it knows how many events are unfinished, not which, and a consumer that dies with one keeps the
producer waiting for ever.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import JoinableQueue
from pathlib import Path

from benchmarks.peers.mp_queue import QueueProducer, QueueRig
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, Rig, Take

__all__ = ["JoinableQueueConsumer", "JoinableQueuePeer", "JoinableQueueRig"]


class JoinableQueuePeer(Peer):
    name = "mp.JoinableQueue"

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        spawn = multiprocessing.get_context("spawn")
        queues = [[spawn.JoinableQueue() for _ in range(layout.subscribers)] for _ in range(layout.stages)]
        try:
            yield JoinableQueueRig(queues, directory)
        finally:
            for queue in (queue for stage in queues for queue in stage):
                queue.cancel_join_thread()
                queue.close()


class JoinableQueueRig(QueueRig):
    _queues: Sequence[Sequence[JoinableQueue[Data | None]]]

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        queue = self._queues[stage][subscriber]
        self._served.append(queue)
        following = self._queues[stage + 1] if stage + 1 < len(self._queues) else []
        return JoinableQueueConsumer(queue, following)

    def finish(self, deliveries: int, timeout_s: float) -> None:
        # An event is in the next stage's queue before it is done in this one's. The run's alarm is the timeout.
        for stage in self._queues:
            for queue in stage:
                queue.join()


class JoinableQueueConsumer(ConsumerTicket):
    def __init__(self, queue: JoinableQueue[Data | None], following: Sequence[JoinableQueue[Data | None]]) -> None:
        self._queue = queue
        self._following = QueueProducer(following)

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        get, task_done, publish = self._queue.get, self._queue.task_done, self._following.publish
        ready()
        while (data := get()) is not None:
            take(data)
            publish((data,))
            task_done()
