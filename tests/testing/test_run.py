"""`TestBus.run`: programs that use `aio.EventBus`, in the thread and the time of a test."""

import asyncio
import random
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, Retry, UsageError, WaitTimeout, aio
from eventbus_mp.testing import TestBus

PAYMENT_S, STEP_S = 10.0, 1.0
"""In the time of the bus: how long a payment service takes, and a step of a pipeline."""


def event(number: int, topic: str = "a") -> Event:
    return Event(str(number), topic, number)


class Shop:
    """A program: a handle that is made before the test's bus, with a handler."""

    def __init__(self) -> None:
        self.bus = aio.EventBus("shop", topics=["order", "bill"])
        self.billed: list[str] = []
        self.bus.on("order", name="bill", concurrency=2)(self.bill)

    async def bill(self, event: Event) -> None:
        await asyncio.sleep(PAYMENT_S)
        self.billed.append(str(event.id))
        await self.bus.notify(Event(event.id, "bill", event.data))


def test_a_program_is_tested_in_no_time() -> None:
    shop = Shop()
    with TestBus("shop") as bus:

        async def scenario() -> float:
            bus.notify(event(1, "order"))
            loop = asyncio.get_running_loop()
            at_s = loop.time()
            await shop.bus.drain()
            return loop.time() - at_s

        assert bus.run(scenario()) == pytest.approx(10, abs=0.1)
        bus.assert_notified("bill", id="1", times=1)
        assert shop.billed == ["1"]

        async def again() -> None:
            await shop.bus.notify(event(2, "order"))
            await shop.bus.drain()

        bus.run(again())  # In another loop, with the same handle.
        assert shop.billed == ["1", "2"]
    assert not shop.bus.connected
    with TestBus("shop") as bus:
        bus.run(again())
    assert shop.billed == ["1", "2", "2"]


def test_a_handle_of_asyncio_is_not_killed() -> None:
    with TestBus("test", ["a"]) as bus:

        async def scenario() -> None:
            async with aio.EventBus("test") as ours:
                with pytest.raises(UsageError, match="none of them can die alone; give a handle that `process`"):
                    bus.kill(ours)  # type: ignore[arg-type]
                assert await ours.topics() == ["a"]

        bus.run(scenario())


def test_threads_and_tasks_are_clients_of_one_bus() -> None:
    with TestBus("shop", ["a", "b"]) as bus:
        got: list[Any] = []
        EventBus("shop").on("b", name="threads")(lambda event: got.append(event.id))

        async def scenario() -> None:
            async with aio.EventBus("shop") as ours:

                @ours.on("a", name="tasks")
                async def forward(event: Event) -> None:
                    await asyncio.sleep(STEP_S)
                    await ours.notify(Event(event.id, "b", event.data))

                await ours.connect()
                bus.notify_many([event(number) for number in range(3)])
                await ours.drain()

        bus.run(scenario())
        assert got == ["0", "1", "2"]


def test_time_goes_to_what_is_due_next() -> None:
    with TestBus(topics=["a"]) as bus:

        async def scenario() -> list[float]:
            loop = asyncio.get_running_loop()
            at_s = loop.time()
            times: list[float] = []
            async with aio.EventBus("test") as ours:

                @ours.on("a", retries=2, retry_delay_s=60)
                async def handle(event: Event) -> None:
                    times.append(loop.time() - at_s)
                    if len(times) < 3:
                        raise Retry(delay_s=100)

                async with await ours.inbox("none", ["b"]) as inbox:
                    assert await inbox.get(50) is None
                times.append(loop.time() - at_s)
                await ours.notify(event(1))
                await ours.drain()
            return times

        assert bus.run(scenario()) == pytest.approx([50, 50, 150], abs=0.1)


def test_the_same_program_gives_the_same_run() -> None:
    def run(seed: int) -> list[Any]:
        chance = random.Random(seed)
        steps: list[Any] = []
        with TestBus(topics=["a"]) as bus:

            async def scenario() -> None:
                loop = asyncio.get_running_loop()
                at_s = loop.time()
                async with aio.EventBus("test") as ours:

                    @ours.on("a", concurrency=5, retries=1)
                    async def handle(event: Event) -> None:
                        await asyncio.sleep(chance.random())
                        steps.append((event.id, round(loop.time() - at_s, 6)))
                        if chance.random() < 0.2:
                            raise Retry(delay_s=chance.random())

                    await asyncio.gather(*(ours.notify(event(number)) for number in range(50)))
                    await ours.drain()

            bus.run(scenario())
        return steps

    seed = random.randrange(1 << 32)
    print("seed", seed)
    assert run(seed) == run(seed)


def test_errors_come_out() -> None:
    with TestBus(topics=["a"]) as bus:

        async def scenario() -> str:
            async with aio.EventBus("test") as ours:

                @ours.on("a")
                async def fail(event: Event) -> None:
                    raise LookupError("bad luck")

                await ours.notify(event(1))
                await ours.drain()
            return "done"

        with pytest.raises(LookupError, match="bad luck"):
            bus.run(scenario())
        assert bus.run(scenario(), raise_errors=False) == "done"

        async def raises() -> None:
            raise KeyError("the test's own")

        with pytest.raises(KeyError, match="the test's own"):
            bus.run(raises())
        with pytest.raises(UsageError, match="give a coroutine"):
            bus.run(raises)  # type: ignore[arg-type]


def test_what_cannot_happen_is_not_waited_for() -> None:
    with TestBus(topics=["a"]) as bus:

        async def scenario() -> None:
            async with aio.EventBus("test") as ours, await ours.inbox("one", ["a"]) as inbox:
                await inbox.get()

        with pytest.raises(RuntimeError, match="this wait has no end"):
            bus.run(scenario())

        async def limited() -> None:
            async with aio.EventBus("test") as ours, await ours.inbox("one", ["a"]):
                await ours.notify_and_wait(event(1), timeout_s=1000)

        with pytest.raises(WaitTimeout, match="not settled after 1000 s"):
            bus.run(limited())


def test_a_full_memory() -> None:
    with TestBus(topics=["a"]) as bus:

        async def scenario() -> None:
            async with aio.EventBus("test") as ours, await ours.inbox("one", ["a"]):
                await ours.notify(event(1))
                with bus.memory_full(), pytest.raises(BusFull):
                    await ours.notify(event(2))
                await ours.notify(event(3))

        bus.run(scenario())


def test_a_thread_is_waited_for_in_real_time() -> None:
    with TestBus(topics=["a"]) as bus:

        async def scenario() -> float:
            loop = asyncio.get_running_loop()
            at_s = loop.time()
            assert await loop.run_in_executor(None, sum, [1, 2]) == 3
            assert await asyncio.to_thread(lambda: "thread") == "thread"
            return loop.time() - at_s

        assert bus.run(scenario()) == 0


def test_another_loop_is_told_what_to_do() -> None:
    async def main() -> None:
        await aio.EventBus("test").connect()

    with TestBus() as bus:
        with pytest.raises(UsageError, match=r"in the coroutine that TestBus\.run is given"):
            asyncio.run(main())
        bus.run(main())


def test_what_the_bus_is_asked_in_between() -> None:
    """`advance` and `deliver_all` may be called in the coroutine."""
    with TestBus(topics=["a"]) as bus:
        got: list[Any] = []
        bus.on("a", name="threads")(lambda event: got.append(event.id))

        async def scenario() -> None:
            ours = aio.EventBus("test")
            await ours.notify(event(1))
            bus.deliver_all()
            assert got == ["1"]
            loop = asyncio.get_running_loop()
            at_s = loop.time()
            bus.advance(100)
            assert loop.time() - at_s == pytest.approx(100)

        bus.run(scenario())
