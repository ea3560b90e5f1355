"""The asyncio client and a manager in one loop, over real pipes and without a process: calls that are cancelled at any
turn. The core checks its invariants after every message."""

import asyncio
import os
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from eventbus_mp import Event, Retry, Skip, aio
from eventbus_mp.aio.running import running_loop
from eventbus_mp.aio.session import LoopSession
from eventbus_mp.aio.transport import LoopTransport
from eventbus_mp.client.connection import Connection
from eventbus_mp.testing.inprocess import InProcessBus

WAIT_S = 20.0
EVENTS = 120


class ManagerInLoop:
    """An `InProcessBus` that reads from pipes, and writes to them, when the loop says so."""

    def __init__(self) -> None:
        self.bus = InProcessBus("test")
        self._fds: list[int] = []

    def open(self, topics: tuple[str, ...]) -> aio.EventBus:
        """A connected handle, as of another process."""
        loop = asyncio.get_running_loop()
        welcome = self.bus.connect().connection.welcome
        near = self.bus._transports[welcome.link]
        incoming, to_client = os.pipe()
        from_client, outgoing = os.pipe()
        self._fds += [to_client, from_client]
        os.set_blocking(from_client, False)

        def read() -> None:
            data = b"".join(frame for frame, _ in near.incoming)
            near.incoming.clear()
            os.write(to_client, data)

        def serve() -> None:
            data = os.read(from_client, 1 << 16)
            if not data:
                loop.remove_reader(from_client)
            self.bus.outgoing.append((welcome.link, data))
            self.bus.run()

        near.read = read  # type: ignore[method-assign]
        loop.add_reader(from_client, serve)
        transport = LoopTransport(running_loop(), incoming, outgoing)
        connection = Connection("test", self.bus.config, welcome, transport, lambda: "")
        handle = aio.EventBus("test", topics, config=self.bus.config)
        handle._session = LoopSession(connection, self.bus.store, transport=transport)
        return handle

    def close(self) -> None:
        for fd in self._fds:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("repetition", range(10))
def test_nothing_is_lost_whatever_is_cancelled(concurrency: int, repetition: int) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)

    async def main() -> None:
        manager = ManagerInLoop()
        try:
            await use(manager, chance, concurrency)
        finally:
            manager.close()

    asyncio.run(asyncio.wait_for(main(), WAIT_S))


async def use(manager: ManagerInLoop, chance: random.Random, concurrency: int) -> None:
    producer, consumer = manager.open(("a",)), manager.open(("a",))
    published: set[Any] = set()
    handled: Counter[Any] = Counter()
    taken: Counter[Any] = Counter()

    async def handle(event: Event) -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        how = chance.random()
        if how < 0.1 and event.id not in handled:
            handled[event.id] += 0
            raise Retry
        handled[event.id] += 1
        if how > 0.9:
            raise Skip

    await producer.register_topic("a")
    consumer.on("a", name="handler", concurrency=concurrency)(handle)
    inbox = await consumer.inbox("inbox", ["a"])

    async def publish(number: int) -> None:
        if number == 0 or chance.random() < 0.5:  # The first one asks for the topic's number.
            await producer.notify(Event(str(number), "a", number))
        else:
            watching = asyncio.create_task(producer.notify_and_wait(Event(str(number), "a", number)))
            await asyncio.sleep(0)
            watching.cancel()
        published.add(str(number))

    async def take() -> None:
        shadows = await inbox.get_many(chance.randrange(1, 5))
        for shadow in shadows:  # From here on it is ours, and nothing waits.
            taken[shadow.id] += 1
            await inbox.complete(shadow)

    for number in range(EVENTS):
        await publish(number)
        calls = [asyncio.create_task(take()) for _ in range(chance.randrange(3))]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
    while sum(taken.values()) < EVENTS:
        await take()
    await producer.drain(timeout_s=WAIT_S)
    assert set(taken) == published
    assert set(taken.values()) == {1}
    assert set(handled) == published
    assert set(handled.values()) == {1}
    assert (await producer.statistics()).events_unsettled == 0
    for used in (producer, consumer):
        await leave(used)
    manager.bus.run()


async def leave(handle: aio.EventBus) -> None:
    session: Any = handle._session
    await session.leave(cancels=False)
    session.close()
