"""multiprocessing.Queue: one for each subscriber; the processes of one subscriber get from the same queue.

The queue itself knows no acknowledgement, so each consumer process counts what it has handled and tells the
producer over a pipe of its own: a number for every 64 events, and the rest when it meets the end marker.
That is less than the bus is asked for (it settles each event by its number), and about the cheapest that
still says when everything is done. The queue is not bounded: the producer may run ahead as far as it can.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import Queue

from benchmarks.peers.interface import Data, Peer, Rig, Take, Ticket

__all__ = ["QueuePeer"]

ACKNOWLEDGE_EVERY = 64


class QueuePeer(Peer):
    name = "mp.Queue"

    @contextmanager
    def open(self, subscribers: int) -> Iterator[Rig]:
        rig = QueueRig(subscribers)
        try:
            yield rig
        finally:
            rig.close()


class QueueRig(Rig):
    def __init__(self, subscribers: int) -> None:
        self._spawn = multiprocessing.get_context("spawn")
        self._queues: list[Queue[Data | None]] = [self._spawn.Queue() for _ in range(subscribers)]
        self._served: list[Queue[Data | None]] = []
        """The queue of each consumer process."""
        self._acknowledgements: list[Connection] = []
        self._senders: list[Connection] = []
        self._published = 0

    def ticket(self, subscriber: int) -> Ticket:
        receiver, sender = self._spawn.Pipe(duplex=False)
        self._acknowledgements.append(receiver)
        self._senders.append(sender)
        self._served.append(self._queues[subscriber])
        return QueueTicket(self._queues[subscriber], sender)

    def publish(self, items: Iterable[Data]) -> None:
        puts = [queue.put for queue in self._queues]
        for data in items:
            for put in puts:
                put(data)
            self._published += 1

    def finish(self, timeout_s: float) -> None:
        for queue in self._served:  # One marker for each process: it takes no second one.
            queue.put(None)
        deadline = time.monotonic() + timeout_s
        missing = self._published * len(self._queues)
        while missing:
            readable = wait(self._acknowledgements, max(0.0, deadline - time.monotonic()))
            if not readable:
                raise TimeoutError(f"{missing} acknowledgements are missing after {timeout_s:g} s")
            for connection in readable:
                assert isinstance(connection, Connection)
                missing -= int.from_bytes(connection.recv_bytes(), "little")

    def close(self) -> None:
        for queue in self._queues:
            queue.cancel_join_thread()  # After a failure nobody reads what is left in it.
            queue.close()
        for connection in (*self._acknowledgements, *self._senders):
            connection.close()


class QueueTicket(Ticket):
    def __init__(self, queue: Queue[Data | None], acknowledgements: Connection) -> None:
        self._queue = queue
        self._acknowledgements = acknowledgements

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        # The end marker ends it, not `stopping`: a `get` with a timeout would cost every event a few us more.
        get, handled = self._queue.get, 0
        ready()
        while (data := get()) is not None:
            take(data)
            handled += 1
            if handled == ACKNOWLEDGE_EVERY:
                self._acknowledge(handled)
                handled = 0
        if handled:
            self._acknowledge(handled)

    def _acknowledge(self, handled: int) -> None:
        self._acknowledgements.send_bytes(handled.to_bytes(4, "little"))
