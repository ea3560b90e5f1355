"""Redis Streams: a server keeps a stream for each stage and a consumer group for each subscriber; msgpack.

The server is started for the run on a unix socket, without persistence. Variants: `redis-streams` sends one command
an event (XADD; XREADGROUP of one, XACK), `redis-pipelined` sends up to 256 in one go on both sides. redis-py reads
with hiredis where that is installed. Arrays are a field of raw bytes.

It keeps what is not acknowledged, and another consumer can claim what a dead one held, but only when it asks for it.
Entries stay in the stream after the last acknowledgement (trimming is the user's business, and is not done here).
The clock stops when consumers have counted what the server confirmed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.counters import Counter, Counters, CountingRig
from benchmarks.peers.encoding import head_of, join, pack, unpack
from benchmarks.peers.server import not_found, running
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take
from eventbus_mp.bench.payloads import MIB

__all__ = ["RedisConsumer", "RedisPeer", "RedisProducer", "RedisRig", "RedisSource"]

SERVER = "redis-server"
BATCH = 256
BATCH_BYTES_MAX = 32 * MIB
LOOK_INTERVAL_MS = 50


class RedisPeer(Peer):
    """Args:
    batch: How many commands go in one pipeline, at most.
    """

    requires = ("redis",)

    def __init__(self, name: str, batch: int) -> None:
        self.name = name
        self._batch = batch

    def missing(self) -> str | None:
        return super().missing() or not_found(SERVER)

    def supports(self, layout: Layout, paced: bool) -> bool:
        return super().supports(layout, paced) and not (paced and self._batch > 1)

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        path = directory / "redis.sock"
        command = [SERVER, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        with running([*command, "--dir", str(directory)], directory / "log", lambda pid: _answers(path)) as pid:
            yield RedisRig(layout, directory, path, self._batch, pid)


class RedisRig(CountingRig):
    def __init__(self, layout: Layout, directory: Path, path: Path, batch: int, server_pid: int) -> None:
        self.counters = Counters(directory)
        self._layout = layout
        self._directory = directory
        self._path = path
        self._batch = max(1, min(batch, BATCH_BYTES_MAX // max(1, layout.array_bytes)))
        self._server_pid = server_pid
        with _client(path) as client:
            for stage in range(layout.stages):
                for subscriber in range(layout.subscribers):
                    client.xgroup_create(_stream(stage), _group(subscriber), id="0", mkstream=True)

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        forward = stage + 1 if stage + 1 < self._layout.stages else None
        return RedisConsumer(self._directory, self._path, self._batch, stage, subscriber, process, forward)

    def producer(self) -> ProducerTicket:
        return RedisProducer(self._path, self._batch)

    def servers(self) -> dict[str, int]:
        return {SERVER: self._server_pid}


class RedisSource(Source):
    def __init__(self, client: Any, batch: int) -> None:
        self._client = client
        self._batch = batch

    def publish(self, items: Iterable[Data]) -> None:
        if self._batch == 1:
            for data in items:
                self._client.xadd(_stream(0), _fields(data))
            return
        remaining = iter(items)
        while batch := list(islice(remaining, self._batch)):
            with self._client.pipeline(transaction=False) as pipeline:
                for data in batch:
                    pipeline.xadd(_stream(0), _fields(data))
                pipeline.execute()


class RedisProducer(ProducerTicket):
    def __init__(self, path: Path, batch: int) -> None:
        self._path = path
        self._batch = batch

    @contextmanager
    def open(self) -> Iterator[Source]:
        with _client(self._path) as client:
            yield RedisSource(client, self._batch)


class RedisConsumer(ConsumerTicket):
    def __init__(
        self, directory: Path, path: Path, batch: int, stage: int, subscriber: int, process: int, forward: int | None
    ) -> None:
        self._directory = directory
        self._path = path
        self._batch = batch
        self._stream = _stream(stage)
        self._group = _group(subscriber)
        self._process = f"process-{process}"
        self._forward = None if forward is None else _stream(forward)

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        acknowledge = Counter(self._directory).add
        with _client(self._path) as client:
            ready()
            while not stopping.is_set():
                read = client.xreadgroup(
                    self._group, self._process, {self._stream: ">"}, count=self._batch, block=LOOK_INTERVAL_MS
                )
                if read:
                    entries = read[0][1]
                    self._handle(client, entries, take)
                    acknowledge(len(entries))

    def _handle(self, client: Any, entries: list[tuple[bytes, dict[bytes, bytes]]], take: Take) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for _, fields in entries:
                take(_data(fields))
                if self._forward is not None:
                    pipeline.xadd(self._forward, fields)
            pipeline.xack(self._stream, self._group, *(entry for entry, _ in entries))
            pipeline.execute()


def _fields(data: Data) -> dict[str, Any]:
    if "array" in data:
        return {"head": head_of(data), "array": memoryview(data["array"]).cast("B")}
    return {"data": pack(data)}


def _data(fields: dict[bytes, bytes]) -> Data:
    if b"array" in fields:
        return join(fields[b"head"], fields[b"array"])
    data: Data = unpack(fields[b"data"])
    return data


def _client(path: Path) -> Any:
    import redis

    return redis.Redis(unix_socket_path=str(path))


def _answers(path: Path) -> bool:
    import redis

    try:
        with _client(path) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _stream(stage: int) -> str:
    return f"stage-{stage}"


def _group(subscriber: int) -> str:
    return f"subscriber-{subscriber}"
