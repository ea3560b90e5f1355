"""NATS JetStream: a server keeps a stream in memory; a durable pull consumer for each subscriber; msgpack.

The server is started for the run on the loopback interface. The producer publishes without waiting for each answer
(`publish_async`, up to 4,000 on their way), consumers fetch up to 256 and acknowledge each one. The stream keeps an
event until every subscriber has acknowledged it (retention by interest), and delivers again what a dead consumer
held after `ack_wait`, 30 s. An array is one message with its head in front, so it is copied once more.

The client is asyncio; the producer runs the loop only while it publishes. An acknowledgement is counted when it is
written, not when the server has it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.counters import Counter, Counters, CountingRig
from benchmarks.peers.encoding import pack, unpack, whole, whole_from
from benchmarks.peers.server import not_found, running
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take
from eventbus_mp.bench.payloads import MIB

__all__ = ["NatsConsumer", "NatsPeer", "NatsProducer", "NatsRig", "NatsSource"]

SERVER = "nats-server"
STREAM = "events"
BATCH = 256
BATCH_BYTES_MAX = 32 * MIB
LOOK_INTERVAL_S = 0.05
ACKS_PENDING_MAX = 1 << 20
PENDING_BYTES_MAX = 1 << 30
SERVER_CONFIG = """
host: 127.0.0.1
port: -1
ports_file_dir: "{directory}"
max_payload: 64MB
max_pending: 1GB
jetstream {{ store_dir: "{directory}/store", max_memory_store: 8GB, max_file_store: 1MB }}
"""


class NatsPeer(Peer):
    name = "nats-jetstream"
    requires = ("nats",)

    def missing(self) -> str | None:
        return super().missing() or not_found(SERVER)

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        config = directory / "nats.conf"
        config.write_text(SERVER_CONFIG.format(directory=directory))
        command = [SERVER, "--config", str(config)]
        with running(command, directory / "log", lambda pid: _address(directory, pid) is not None) as pid:
            address = _address(directory, pid)
            assert address is not None
            asyncio.run(_make_stream(address, layout))
            yield NatsRig(layout, directory, address, pid)


class NatsRig(CountingRig):
    def __init__(self, layout: Layout, directory: Path, address: str, server_pid: int) -> None:
        self.counters = Counters(directory)
        self._layout = layout
        self._directory = directory
        self._address = address
        self._server_pid = server_pid

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        return NatsConsumer(self._layout, self._directory, self._address, stage, subscriber)

    def producer(self) -> ProducerTicket:
        return NatsProducer(self._address)

    def servers(self) -> dict[str, int]:
        return {SERVER: self._server_pid}


class NatsSource(Source):
    def __init__(self, loop: asyncio.AbstractEventLoop, jetstream: Any) -> None:
        self._loop = loop
        self._jetstream = jetstream

    def publish(self, items: Iterable[Data]) -> None:
        self._loop.run_until_complete(self._publish(items))

    async def _publish(self, items: Iterable[Data]) -> None:
        publish, subject = self._jetstream.publish_async, _subject(0)
        for data in items:
            await publish(subject, _encode(data))
        await self._jetstream.publish_async_completed()


class NatsProducer(ProducerTicket):
    def __init__(self, address: str) -> None:
        self._address = address

    @contextmanager
    def open(self) -> Iterator[Source]:
        loop = asyncio.new_event_loop()
        client = loop.run_until_complete(_connect(self._address))
        try:
            yield NatsSource(loop, client.jetstream())
        finally:
            loop.run_until_complete(client.close())
            loop.close()


class NatsConsumer(ConsumerTicket):
    def __init__(self, layout: Layout, directory: Path, address: str, stage: int, subscriber: int) -> None:
        self._layout = layout
        self._directory = directory
        self._address = address
        self._stage = stage
        self._subscriber = subscriber

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        asyncio.run(self._consume(take, ready, stopping))

    async def _consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        import nats

        client = await _connect(self._address)
        jetstream = client.jetstream()
        subscription = await jetstream.pull_subscribe_bind(
            _durable(self._stage, self._subscriber), STREAM, pending_bytes_limit=PENDING_BYTES_MAX
        )
        acknowledge = Counter(self._directory).add
        batch = max(1, min(BATCH, BATCH_BYTES_MAX // max(1, self._layout.array_bytes)))
        following = _subject(self._stage + 1) if self._stage + 1 < self._layout.stages else None
        decode = whole_from if self._layout.array_bytes else unpack
        ready()
        while not stopping.is_set():
            with suppress(nats.errors.TimeoutError, asyncio.TimeoutError):
                for message in await subscription.fetch(batch, timeout=LOOK_INTERVAL_S):
                    take(decode(message.data))
                    if following is not None:
                        await jetstream.publish_async(following, message.data)
                    await message.ack()
                    acknowledge()
        await client.close()


async def _make_stream(address: str, layout: Layout) -> None:
    """The stream, and each subscriber's consumer: what is published before there is one is kept for nobody."""
    from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType

    client = await _connect(address)
    jetstream = client.jetstream()
    subjects = [_subject(stage) for stage in range(layout.stages)]
    await jetstream.add_stream(
        name=STREAM, subjects=subjects, storage=StorageType.MEMORY, retention=RetentionPolicy.INTEREST
    )
    for stage in range(layout.stages):
        for subscriber in range(layout.subscribers):
            name, subject = _durable(stage, subscriber), _subject(stage)
            config = ConsumerConfig(durable_name=name, filter_subject=subject, max_ack_pending=ACKS_PENDING_MAX)
            await jetstream.add_consumer(STREAM, config)
    await client.close()


def _encode(data: Data) -> bytes:
    return whole(data) if "array" in data else pack(data)


async def _connect(address: str) -> Any:
    import nats

    return await nats.connect(address)


def _address(directory: Path, pid: int) -> str | None:
    """What the server says that it listens on; None while it does not."""
    try:
        ports = json.loads((directory / f"{SERVER}_{pid}.ports").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    address: str = ports["nats"][0]
    return address


def _subject(stage: int) -> str:
    return f"stage.{stage}"


def _durable(stage: int, subscriber: int) -> str:
    return f"stage-{stage}-subscriber-{subscriber}"
