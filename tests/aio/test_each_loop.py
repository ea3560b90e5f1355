"""What a handle does under asyncio, under uvloop and under trio, in programs that are written with anyio."""

import os
import signal
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventbus_mp import BusClosed, BusFull, Event, EventBus, Retry, Skip, WaitTimeout, aio
from tests.aio.programs import WAIT_S, event

Open = Callable[..., aio.EventBus]
Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's coroutine function in a loop of this kind, for a minute at most."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    backend, options = LOOPS[request.param]

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def limited() -> None:
            with anyio.fail_after(WAIT_S):
                await main()

        anyio.run(limited, backend=backend, backend_options=options)

    return run


@pytest.mark.parametrize("concurrency", [1, 3])
def test_handlers_get_each_event_once(open_bus: Open, run: Run, concurrency: int) -> None:
    async def main() -> None:
        got: list[int] = []
        plain: list[int] = []
        batches: list[list[int]] = []

        async def handle(event: Event) -> None:
            await anyio.lowlevel.checkpoint()
            got.append(event.data)

        async def collect(events: list[Event]) -> None:
            await anyio.lowlevel.checkpoint()
            batches.append([event.data for event in events])

        async with open_bus() as bus:
            bus.on("a", concurrency=concurrency)(handle)
            bus.on("a", name="plain")(lambda event: plain.append(event.data))
            bus.on("a", name="batch", batch=40, within_s=0.02)(collect)
            for number in range(300):
                await bus.notify(event(number))
            await bus.drain(timeout_s=WAIT_S)
        assert sorted(got) == plain == list(range(300))
        assert [number for batch in batches for number in batch] == list(range(300))
        if concurrency == 1:
            assert got == plain

    run(main)


def test_how_a_handler_ends_settles_the_event(open_bus: Open, run: Run) -> None:
    async def main() -> None:
        calls: list[int] = []

        async def handle(event: Event) -> None:
            calls.append(event.data)
            await anyio.lowlevel.checkpoint()
            if event.data == 1:
                raise Skip("not mine")
            if event.data == 2 and calls.count(2) < 2:
                raise Retry
            if event.data == 3:
                with anyio.fail_after(0.001):
                    await anyio.sleep_forever()
            if event.data == 4:
                raise ValueError("no fours")

        async with open_bus() as bus:
            bus.on("a", retries=1, name="one")(handle)
            ends = [await bus.notify_and_wait(event(number), timeout_s=WAIT_S) for number in range(5)]
            assert [len(end.completers) for end in ends] == [1, 0, 1, 0, 0]
            found = dict((await bus.statistics()).subscribers[0].recent_skips)
            assert found["1"] == "not mine"
            assert "Timeout" in found["3"]
            assert found["4"] == "ValueError: no fours"
        assert calls == [0, 1, 2, 2, 3, 3, 4, 4]

    run(main)


def test_as_many_calls_are_under_way_as_was_said(open_bus: Open, run: Run) -> None:
    async def main() -> None:
        under_way = most = 0
        all_are_in = anyio.Event()

        async def handle(event: Event) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == 40:
                all_are_in.set()
            await all_are_in.wait()
            under_way -= 1

        async with open_bus() as bus:
            bus.on("a", concurrency=40)(handle)
            await bus.notify_many(map(event, range(100)))
            await bus.drain(timeout_s=WAIT_S)
        assert most == 40

    run(main)


def test_many_wait_at_once(open_bus: Open, run: Run) -> None:
    async def main() -> None:
        ends: list[Any] = []
        async with open_bus() as bus, anyio.create_task_group() as tasks:

            @bus.on("a", concurrency=100)
            async def handle(event: Event) -> None:
                await bus.notify(Event(event.id, "b", event.data))

            async def publish(number: int) -> None:
                ends.append(await bus.notify_and_wait(event(number), timeout_s=WAIT_S if number % 2 else None))

            for number in range(1_000):
                tasks.start_soon(publish, number)
        assert [len(end.completers) for end in ends] == [1] * 1_000

    run(main)


def test_an_inbox(open_bus: Open, run: Run) -> None:
    async def main() -> None:
        async with open_bus() as bus, anyio.create_task_group() as tasks:
            inbox = await bus.inbox("one", ["a"])
            got: list[Any] = []

            async def read() -> None:
                async for shadow in inbox:
                    got.append(await bus.fetch_event_data(shadow))
                    await inbox.complete(shadow)

            for _ in range(3):
                tasks.start_soon(read)
            await bus.notify_many(map(event, range(60)))
            await bus.drain(timeout_s=WAIT_S)
            with anyio.move_on_after(0.01) as scope:
                await inbox.get()
            assert scope.cancelled_caught
            assert await inbox.get(0.01) is None
            await inbox.close()  # The readers end with it.
            with pytest.raises(BusClosed, match="inbox 'one' was closed"):
                await inbox.get()
        assert sorted(got) == list(range(60))

    run(main)


def test_a_full_bus_keeps_nobody_else_waiting(open_bus: Open, run: Run) -> None:
    """`notify` waits for memory; what is cancelled meanwhile was not published, and what waits on gets the memory."""

    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            data = b"x" * (1 << 20)
            number = 0

            async def publish(number: int) -> None:
                await bus.notify(event(number, data=data))
                published.append(str(number))

            published: list[str] = []
            while len(published) == number:
                number += 1
                with anyio.move_on_after(0.3):
                    await publish(number - 1)
            with pytest.raises(BusFull, match="one has"):
                await bus.notify(event(number, data=data), timeout_s=0.01)
            with pytest.raises(WaitTimeout, match="is not drained"):
                await bus.drain(timeout_s=0.01)
            assert len((await bus.explain(("a", "0"))).deliveries) == 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish, 1_000)
                found: list[Any] = []
                while len(found) < number:
                    shadow = await inbox.get(WAIT_S)
                    found.append(shadow.id)
                    await inbox.complete(shadow)
            assert found == published

    run(main)


@pytest.mark.parametrize("how", ["an exception", "a cancelled scope"])
def test_handlers_are_cancelled_when_the_bus_is_left_by(open_bus: Open, run: Run, how: str) -> None:
    """They end, and what they had goes to others at its first attempt."""

    async def main() -> None:
        begun = anyio.Event()
        ends: list[str] = []

        async def hang(event: Event) -> None:
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                ends.append(event.id)

        async with open_bus() as other:
            with anyio.CancelScope() as scope:
                try:
                    async with open_bus() as bus:
                        bus.on("a", name="one", concurrency=3)(hang)
                        for number in range(6):
                            await bus.notify(event(number))
                        await begun.wait()
                        if how == "an exception":
                            raise LookupError
                        scope.cancel()
                        try:
                            await anyio.sleep_forever()
                        finally:
                            with anyio.CancelScope(shield=True):
                                assert await bus.topic_exists("b")
                except LookupError:
                    assert how == "an exception"
            assert not bus.connected
            while not ends:  # Under asyncio, a scope of anyio cancels the wait for them as well.
                await anyio.lowlevel.checkpoint()
            async with await other.inbox("one", ["a"]) as inbox:
                shadows: list[Any] = []
                while len(shadows) < 6:
                    shadows += await inbox.get_many(6)
                assert sorted(shadow.id for shadow in shadows) == [str(number) for number in range(6)]
                assert {inbox.attempt(shadow) for shadow in shadows} == {1}

    run(main)


def test_close_waits_for_handlers_unless_it_is_cancelled(open_bus: Open, run: Run) -> None:
    async def main() -> None:
        may_end = anyio.Event()
        begun: list[int] = []

        async def handle(event: Event) -> None:
            begun.append(event.data)
            await (may_end.wait() if event.data == 1 else anyio.sleep_forever())

        async def close_and_let_end() -> None:
            may_end.set()

        for number in (1, 2):
            async with anyio.create_task_group() as tasks, open_bus() as bus:
                bus.on("a", name="one")(handle)
                await bus.notify(event(number))
                while number not in begun:
                    await anyio.lowlevel.checkpoint()
                with anyio.move_on_after(0.05) as scope:
                    if number == 1:
                        tasks.start_soon(close_and_let_end)
                        scope.deadline = anyio.current_time() + WAIT_S
                    await bus.close()
                assert scope.cancelled_caught == (number == 2)
                assert not bus.connected
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            shadow = await inbox.get(WAIT_S)
            assert (shadow.id, inbox.attempt(shadow)) == ("2", 1)
            await inbox.complete(shadow)

    run(main)


@pytest.mark.parametrize("concurrency", [1, 20])
def test_a_takeover_in_the_middle_loses_nothing(open_bus: Open, run: Run, concurrency: int) -> None:
    async def main() -> None:
        got: list[int] = []
        async with open_bus(memory_bytes_max=64 << 20) as bus:

            @bus.on("a", concurrency=concurrency)
            async def handle(event: Event) -> None:
                await anyio.lowlevel.checkpoint()
                got.append(event.data)

            before = (await bus.statistics()).manager_pid
            for number in range(2_000):
                await bus.notify(event(number))
                if number == 1_000:
                    os.kill(before, signal.SIGKILL)
            assert len((await bus.notify_and_wait(event(2_000))).completers) == 1
            assert (await bus.statistics()).manager_pid != before
            await bus.drain(timeout_s=WAIT_S)
        assert sorted(got) == list(range(2_001))

    run(main)


def test_a_lost_bus_comes_back_by_itself(
    open_bus: Open, run: Run, make_bus: Callable[..., EventBus], kill_bus: Callable[[], None], caplog: Any
) -> None:
    async def main() -> None:
        got: list[int] = []
        arrived = anyio.Event()
        async with open_bus() as bus, await bus.inbox("box", ["a"]) as inbox:

            @bus.on("a", name="one")
            async def handle(event: Event) -> None:
                got.append(event.data)
                arrived.set()

            await bus.connect()
            kill_bus()
            # Nobody calls: the handle comes back because something is subscribed.
            with make_bus("test") as other:
                while len(await anyio.to_thread.run_sync(other.subscribers, "a")) < 2:
                    await anyio.lowlevel.checkpoint()
                other.notify(event(3))
            await arrived.wait()
            assert got == [3]
            shadow = await inbox.get(WAIT_S)
            assert shadow.id == "3"
            await inbox.complete(shadow)
            await bus.drain(timeout_s=WAIT_S)

    with caplog.at_level("CRITICAL", logger="eventbus_mp"):
        run(main)


def test_a_manager_that_is_behind_is_waited_for_and_the_order_is_kept(open_bus: Open, run: Run) -> None:
    """It is stopped: the pipe fills, the loop goes on, and a call that is cancelled meanwhile has published nothing."""

    async def main() -> None:
        async with open_bus(memory_bytes_max=64 << 20) as bus, await bus.inbox("one", ["a"], credit=50_000) as inbox:
            await bus.notify(event(0))
            pid = (await bus.statistics()).manager_pid
            published = 1

            async def publish() -> None:
                nonlocal published
                while published < 10_000:
                    await bus.notify(event(published))
                    published += 1

            os.kill(pid, signal.SIGSTOP)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(publish)
                    while not bus._session.transport.is_behind:
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                stuck_at = published
                assert stuck_at < 10_000
            finally:
                os.kill(pid, signal.SIGCONT)
            taken: list[Any] = []
            await publish()
            while len(taken) < 10_000:
                shadows = await inbox.get_many(1_000)
                taken += [shadow.id for shadow in shadows]
                await inbox.complete_many(shadows)
            assert taken == [str(number) for number in range(10_000)]

    run(main)
