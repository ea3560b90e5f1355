"""pyzmq over ipc: XPUB to SUB when several subscribers get each event, PUSH to PULL otherwise; msgpack.

There is no broker: consumers bind, the producer connects. Arrays go as a frame of their own, the raw buffer with
`copy=False`, as pyzmq's documentation recommends; they are copied into and out of the socket by the kernel, once for
each subscriber. Queues are unbounded (HWM 0): with a bound, PUB drops silently.

It does less than the bus: nobody knows who has handled what, a dead consumer's events are lost, PUSH deals events out
in turn, to busy consumers as to idle ones. Each consumer process counts what it has handled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counters import Counter, Counters, CountingRig
from benchmarks.peers.encoding import head_of, join, pack, unpack
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take

__all__ = ["ZmqConsumer", "ZmqPeer", "ZmqProducer", "ZmqRig", "ZmqSource"]

LOOK_INTERVAL_MS = 50
"""How often a consumer that gets nothing looks whether it shall stop."""
CONNECT_TIMEOUT_MS = 20_000


class ZmqPeer(Peer):
    name = "pyzmq"
    requires = ("zmq",)

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        yield ZmqRig(layout, directory)


class ZmqRig(CountingRig):
    def __init__(self, layout: Layout, directory: Path) -> None:
        self.counters = Counters(directory)
        self._layout = layout
        self._directory = directory

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        return ZmqConsumer(self._layout, self._directory, stage, f"{stage}-{subscriber}-{process}")

    def producer(self) -> ProducerTicket:
        return ZmqProducer(self._layout, self._directory, 0)


class ZmqSource(Source):
    def __init__(self, socket: Any, arrays: bool) -> None:
        self._socket = socket
        self._arrays = arrays

    def publish(self, items: Iterable[Data]) -> None:
        if self._arrays:
            send_multipart = self._socket.send_multipart
            for data in items:
                send_multipart((head_of(data), data["array"]), copy=False)
            return
        send = self._socket.send
        for data in items:
            send(pack(data))


class ZmqProducer(ProducerTicket):
    def __init__(self, layout: Layout, directory: Path, stage: int) -> None:
        self._layout = layout
        self._directory = directory
        self._stage = stage

    @contextmanager
    def open(self) -> Iterator[Source]:
        import zmq

        fans_out = self._layout.subscribers > 1
        with zmq.Context() as context, context.socket(zmq.XPUB if fans_out else zmq.PUSH) as socket:
            socket.set_hwm(0)
            socket.set(zmq.RCVTIMEO, CONNECT_TIMEOUT_MS)
            socket.set(zmq.LINGER, 0)
            if fans_out:
                socket.set(zmq.XPUB_VERBOSE, 1)  # It reports every subscription, even equal ones.
            for subscriber in range(self._layout.subscribers):
                for process in range(self._layout.processes_each):
                    socket.connect(_address(self._directory, f"{self._stage}-{subscriber}-{process}"))
            for _ in range(self._layout.subscribers if fans_out else 0):
                socket.recv()  # A subscription: who has not subscribed yet misses what is sent.
            yield ZmqSource(socket, self._layout.array_bytes > 0)


class ZmqConsumer(ConsumerTicket):
    def __init__(self, layout: Layout, directory: Path, stage: int, name: str) -> None:
        self._layout = layout
        self._directory = directory
        self._stage = stage
        self._name = name

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        import zmq

        fans_out = self._layout.subscribers > 1
        with zmq.Context() as context, context.socket(zmq.SUB if fans_out else zmq.PULL) as socket:
            socket.set_hwm(0)
            socket.set(zmq.RCVTIMEO, LOOK_INTERVAL_MS)
            if fans_out:
                socket.subscribe(b"")
            socket.bind(_address(self._directory, self._name))
            acknowledge = Counter(self._directory).add
            if self._stage + 1 < self._layout.stages:
                following = ZmqProducer(self._layout, self._directory, self._stage + 1)
                with following.open() as source:
                    self._receive(socket, _passing_on(take, source), acknowledge, ready, stopping)
            else:
                self._receive(socket, take, acknowledge, ready, stopping)

    def _receive(
        self, socket: Any, take: Take, acknowledge: Callable[[], None], ready: Callable[[], None], stopping: Any
    ) -> None:
        import zmq

        arrays = self._layout.array_bytes > 0
        ready()
        while not stopping.is_set():
            try:
                while True:
                    if arrays:
                        head, buffer = socket.recv_multipart(copy=False)
                        take(join(head.buffer, buffer.buffer))
                    else:
                        take(unpack(socket.recv()))
                    acknowledge()
            except zmq.Again:
                continue


def _passing_on(take: Take, source: Source) -> Take:
    def hand_over(data: Data) -> None:
        take(data)
        source.publish((data,))

    return hand_over


def _address(directory: Path, name: str) -> str:
    return f"ipc://{directory}/{name}"
