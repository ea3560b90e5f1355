"""What happens to an asyncio client when its manager dies, its bus is lost, the pipe is full, or its process ends."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, LostBus, ManagerLost, aio
from tests.aio.programs import WAIT_S, event, run

Open = Callable[..., aio.EventBus]


@pytest.mark.parametrize("concurrency", [1, 20])
def test_a_takeover_in_the_middle_loses_nothing(open_bus: Open, concurrency: int) -> None:
    async def main() -> None:
        got: list[int] = []
        async with open_bus(memory_bytes_max=64 << 20) as bus, await bus.inbox("box", ["a"]) as inbox:

            @bus.on("a", concurrency=concurrency)
            async def handle(event: Event) -> None:
                await asyncio.sleep(0)
                got.append(event.data)

            async def read() -> None:
                while len(taken) < 2_001:
                    shadow = await inbox.get()
                    taken.add(int(shadow.id))
                    await inbox.complete(shadow)

            taken: set[int] = set()

            reading = asyncio.create_task(read())
            before = (await bus.statistics()).manager_pid
            for number in range(2_000):
                await bus.notify(event(number))
                if number == 1_000:
                    os.kill(before, signal.SIGKILL)
            assert len((await bus.notify_and_wait(event(2_000))).completers) == 2
            await reading
            assert (await bus.statistics()).manager_pid != before
        assert sorted(got) == list(range(2_001))
        assert taken == set(got)

    run(main)


def test_a_lost_bus_comes_back_by_itself(
    open_bus: Open, make_bus: Callable[..., EventBus], kill_bus: Callable[[], None], caplog: Any
) -> None:
    async def main() -> None:
        losses: list[LostBus] = []
        got: asyncio.Queue[int] = asyncio.Queue()
        async with open_bus() as bus, await bus.inbox("box", ["a"]) as inbox:
            bus.on_lost(losses.append)

            @bus.on("a", name="one")
            async def handle(event: Event) -> None:
                await got.put(event.data)

            await bus.connect()
            await bus.notify(event(1))
            assert await got.get() == 1
            waiting = asyncio.create_task(bus.notify_and_wait(Event("2", "b", 2)))
            kill_bus()
            # Nobody calls: the handle comes back because something is subscribed.
            with make_bus("test") as other:
                while len(await asyncio.to_thread(other.subscribers, "a")) < 2:
                    await asyncio.sleep(0)
                other.notify(event(3))
            assert await got.get() == 3
            shadow = await inbox.get()
            assert shadow.id == "3"
            await inbox.complete(shadow)
            await waiting
            await bus.drain()
        (loss,) = losses
        assert not loss.was_shut_down
        assert sorted(key.name for key in loss.subscribers) == ["box", "one"]

    with caplog.at_level(logging.CRITICAL, logger="eventbus_mp"):
        run(main)


def test_a_handle_that_does_not_come_back(open_bus: Open, kill_bus: Callable[[], None], caplog: Any) -> None:
    async def main() -> None:
        async with (
            open_bus(reconnect=False) as bus,
            await bus.inbox("unread", ["a"]),
            await bus.inbox("box", ["b"]) as inbox,
        ):
            reading = asyncio.create_task(inbox.get())
            awaited = asyncio.create_task(bus.notify_and_wait(event(1)))
            await bus.topics()
            kill_bus()
            for call in (awaited, bus.notify(event(2)), bus.topics(), bus.notify_many([event(3)])):
                with pytest.raises(ManagerLost):
                    await call
            with pytest.raises(ManagerLost):
                await reading

    with caplog.at_level(logging.CRITICAL, logger="eventbus_mp"):
        run(main)


def test_a_bus_that_was_shut_down_is_not_started_again(open_bus: Open, bus: EventBus, caplog: Any) -> None:
    bus.topics()

    async def main() -> None:
        losses: list[LostBus] = []
        async with open_bus() as ours:
            ours.on_lost(losses.append)
            await ours.topics()
            await asyncio.to_thread(bus.shutdown)
            with pytest.raises(ManagerLost):
                await ours.topics()
        assert [loss.was_shut_down for loss in losses] == [True]

    with caplog.at_level(logging.CRITICAL, logger="eventbus_mp"):
        run(main)


def test_two_that_shut_a_bus_down_at_the_same_time(open_bus: Open) -> None:
    async def main() -> None:
        one, two = await open_bus().connect(), await open_bus().connect()
        await asyncio.gather(one.shutdown(), two.shutdown())
        assert not one.connected
        assert not two.connected

    run(main)


def test_a_full_bus_says_so_and_the_loop_goes_on(open_bus: Open) -> None:
    async def main() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with open_bus(notify_timeout_s=0.2) as bus, await bus.inbox("one", ["a"]):
            counting = asyncio.create_task(count())
            data = bytes(1 << 20)

            async def fill() -> None:
                for number in range(100):
                    await bus.notify(Event(str(number), "a", data))

            with pytest.raises(BusFull, match="one has"):
                await fill()
            before = turns
            with pytest.raises(BusFull) as caught:
                await bus.notify_many([Event(str(number), "a", data) for number in range(3)], timeout_s=0.1)
            assert caught.value.published == ()
            assert turns > before + 10
            counting.cancel()

    run(main)


def test_a_manager_that_is_behind_is_waited_for_and_the_order_is_kept(open_bus: Open) -> None:
    """It is stopped: the pipe fills, the loop goes on, and a call that is cancelled meanwhile has published nothing."""

    async def main() -> None:
        async with open_bus(memory_bytes_max=64 << 20) as bus, await bus.inbox("one", ["a"], credit=50_000) as inbox:
            await bus.notify(event(0))
            pid = (await bus.statistics()).manager_pid
            published = 1
            os.kill(pid, signal.SIGSTOP)
            try:

                async def publish() -> None:
                    nonlocal published
                    while published < 20_000:
                        await bus.notify(event(published))
                        published += 1

                publishing = asyncio.create_task(publish())
                while not bus._session.transport.is_behind:
                    await asyncio.sleep(0)
                for _ in range(10):
                    await asyncio.sleep(0)
                stuck_at = published
                assert stuck_at < 20_000
                publishing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await publishing
            finally:
                os.kill(pid, signal.SIGCONT)
            assert published == stuck_at
            taken: list[Any] = []
            await publish()
            while len(taken) < 20_000:
                shadows = await inbox.get_many(1_000)
                taken += [shadow.id for shadow in shadows]
                await inbox.complete_many(shadows)
            assert taken == [str(number) for number in range(20_000)]

    run(main)


def test_a_forked_child_connects_anew(open_bus: Open, bus: EventBus, fork: Callable[..., Any]) -> None:
    """What the parent has connected stays the parent's; its loop's selector is not touched by the child."""
    loop = asyncio.new_event_loop()
    ours = open_bus()
    try:
        with bus.inbox("one", ["a"]) as inbox:
            loop.run_until_complete(ours.notify(event(1)))

            def in_child(to_parent: Any) -> None:
                async def main() -> None:
                    await ours.notify(event(2))
                    await ours.close()

                run(main)

            assert fork(in_child).wait() == 0
            loop.run_until_complete(ours.notify(event(3)))
            found: list[Any] = []
            while len(found) < 3:
                shadow = inbox.get(WAIT_S)
                found.append(shadow.id)
                inbox.complete(shadow)
            assert found == ["1", "2", "3"]
        loop.run_until_complete(ours.close())
    finally:
        loop.close()


def test_a_handle_that_is_dropped_leaves(open_bus: Open, bus: EventBus) -> None:
    async def main() -> None:
        assert await open_bus().topics() == ["a", "b"]

    bus.topics()
    run(main)
    while bus.statistics().links > 1:
        gc.collect()
