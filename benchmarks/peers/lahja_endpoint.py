"""lahja: an asyncio event bus over unix sockets, the nearest relative; one endpoint for each process.

Every subscriber serves an endpoint and has a handler; the producer connects to all of them and awaits `broadcast`,
which is lahja's own backpressure. Events are pickled once and written to each subscriber. Processes that compete for
one subscriber's events are not a thing it has.

It does less than the bus: no acknowledgement (each consumer process counts what it has handled), what a dead consumer
had is lost, an error in a handler is only seen in the log at level DEBUG. The producer is not a coroutine, so at a
pace each event starts and stops the loop, which adds some tens of microseconds to its latency.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counters import Counter, Counters, CountingRig
from eventbus_mp.bench.interface import ConsumerTicket, Data, Layout, Peer, ProducerTicket, Rig, Source, Take

__all__ = ["LahjaConsumer", "LahjaPeer", "LahjaProducer", "LahjaRig", "LahjaSource"]

FLUSH_INTERVAL_S = 0.0005


class LahjaPeer(Peer):
    name = "lahja"
    requires = ("lahja",)

    def supports(self, layout: Layout, paced: bool) -> bool:
        return super().supports(layout, paced) and layout.processes_each == 1

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        yield LahjaRig(layout, directory)


class LahjaRig(CountingRig):
    def __init__(self, layout: Layout, directory: Path) -> None:
        self.counters = Counters(directory)
        self._layout = layout
        self._directory = directory

    def consumer(self, stage: int, subscriber: int, process: int) -> ConsumerTicket:
        return LahjaConsumer(self._layout, self._directory, stage, subscriber)

    def producer(self) -> ProducerTicket:
        return LahjaProducer(self._layout, self._directory)


class LahjaSource(Source):
    """Runs the loop only while it publishes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: Any) -> None:
        self._loop = loop
        self._endpoint = endpoint

    def publish(self, items: Iterable[Data]) -> None:
        self._loop.run_until_complete(self._broadcast(items))

    async def _broadcast(self, items: Iterable[Data]) -> None:
        from benchmarks.peers.lahja_events import STAGES

        event, broadcast = STAGES[0], self._endpoint.broadcast
        for data in items:
            await broadcast(event(data))
        # `broadcast` leaves up to 64 KiB for the loop to write, and the loop stops here.
        transports = [remote.conn.writer.transport for remote in self._endpoint._connections]
        while any(transport.get_write_buffer_size() for transport in transports):
            await asyncio.sleep(FLUSH_INTERVAL_S)


class LahjaProducer(ProducerTicket):
    def __init__(self, layout: Layout, directory: Path) -> None:
        self._layout = layout
        self._directory = directory

    @contextmanager
    def open(self) -> Iterator[Source]:
        loop = asyncio.new_event_loop()
        stack = AsyncExitStack()
        try:
            yield LahjaSource(loop, loop.run_until_complete(self._connect(stack)))
        finally:
            loop.run_until_complete(stack.aclose())
            loop.close()

    async def _connect(self, stack: AsyncExitStack) -> Any:
        from lahja import AsyncioEndpoint

        endpoint = await stack.enter_async_context(AsyncioEndpoint(f"producer-{os.getpid()}").run())
        await _connect_to_stage(endpoint, self._directory, 0, self._layout.subscribers)
        return endpoint


class LahjaConsumer(ConsumerTicket):
    def __init__(self, layout: Layout, directory: Path, stage: int, subscriber: int) -> None:
        self._layout = layout
        self._directory = directory
        self._stage = stage
        self._subscriber = subscriber

    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        asyncio.run(self._consume(take, ready, stopping))

    async def _consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        from lahja import AsyncioEndpoint

        from benchmarks.peers.lahja_events import STAGES

        acknowledge = Counter(self._directory).add
        async with AsyncioEndpoint.serve(_address(self._directory, self._stage, self._subscriber)) as endpoint:

            def handle(event: Any) -> None:
                take(event.data)
                acknowledge()

            async def hand_over(event: Any) -> None:
                take(event.data)
                await endpoint.broadcast(STAGES[self._stage + 1](event.data))
                acknowledge()

            is_last = self._stage + 1 == self._layout.stages
            endpoint.subscribe(STAGES[self._stage], handle if is_last else hand_over)
            if not is_last:
                await _connect_to_stage(endpoint, self._directory, self._stage + 1, self._layout.subscribers)
            ready()
            await asyncio.get_running_loop().run_in_executor(None, stopping.wait)


async def _connect_to_stage(endpoint: Any, directory: Path, stage: int, subscribers: int) -> None:
    """Return when each of its subscribers is connected, and known to want its events."""
    from benchmarks.peers.lahja_events import STAGES

    addresses = [_address(directory, stage, subscriber) for subscriber in range(subscribers)]
    await endpoint.connect_to_endpoints(*addresses)
    for address in addresses:
        await endpoint.wait_until_endpoint_subscribed_to(address.name, STAGES[stage])


def _address(directory: Path, stage: int, subscriber: int) -> Any:
    from lahja import ConnectionConfig

    return ConnectionConfig.from_name(f"stage-{stage}-{subscriber}", base_path=directory)
