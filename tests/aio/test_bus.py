"""aio.EventBus over a real bus: what it publishes, what its handlers and inboxes get, what it says of mistakes."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from eventbus_mp import (
    BusClosed,
    BusConfig,
    EncodeError,
    Event,
    EventBus,
    InvalidPattern,
    NoSuchBus,
    Skip,
    UsageError,
    WaitTimeout,
    aio,
)
from tests.aio.programs import WAIT_S, event, run

Open = Callable[..., aio.EventBus]


# --- publishing, and handlers ---


def test_a_handler_is_decorated_before_the_bus_is_entered(open_bus: Open) -> None:
    async def main() -> None:
        bus = open_bus()
        got: list[int] = []

        async def handle(event: Event) -> None:
            got.append(event.data)

        assert bus.on("a")(handle) is handle
        async with bus:
            shadows = [await bus.notify(event(number)) for number in range(3)]
            assert [shadow.id for shadow in shadows] == ["0", "1", "2"]
            await bus.drain()
        assert got == [0, 1, 2]

    run(main)


def test_a_plain_function_is_called_as_well(open_bus: Open) -> None:
    async def main() -> None:
        got: list[int] = []
        async with open_bus() as bus:
            bus.on("a")(lambda event: got.append(event.data))
            await bus.notify_many(map(event, range(50)))
            await bus.drain()
        assert got == list(range(50))

    run(main)


def test_a_callable_that_returns_an_awaitable_is_awaited(open_bus: Open) -> None:
    async def main() -> None:
        got: list[int] = []

        class Later:
            async def __call__(self, event: Event) -> None:
                got.append(event.data)

        async with open_bus() as bus:
            bus.on("a", name="object")(Later())
            bus.on("a", name="partial")(functools.partial(Later().__call__))
            bus.on("a", name="lambda")(lambda event: Later().__call__(event=event))
            await bus.notify(event(7))
            await bus.drain()
        assert got == [7, 7, 7]

    run(main)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_handlers_of_batches(open_bus: Open, concurrency: int) -> None:
    async def main() -> None:
        batches: list[list[int]] = []

        async def handle(events: list[Event]) -> list[Any] | None:
            await asyncio.sleep(0)
            batches.append([event.data for event in events])
            return [Skip("odd") if event.data % 2 else None for event in events]

        async with open_bus() as bus:
            bus.on("a", batch=10, within_s=0.05, name="one", concurrency=concurrency)(handle)
            await bus.notify_many(map(event, range(45)))
            await bus.drain()
            found = (await bus.statistics()).subscribers[0]
            assert (found.completed, found.skipped) == (23, 22)
        assert sorted(number for batch in batches for number in batch) == list(range(45))
        assert max(map(len, batches)) == 10

    run(main)


def test_a_listener_settles_by_itself_and_later(open_bus: Open) -> None:
    async def main() -> None:
        got: list[Any] = []
        all_are_here = asyncio.Event()

        class Keeper:
            async def process(self, shadow: Any, config: Any) -> None:
                got.append((shadow, config))
                if len(got) == 4:
                    all_are_here.set()

        async with open_bus() as bus:
            listener = (Keeper(), {"shelf": 1})
            key = await bus.subscribe(listener, ["a"], credit=10)
            await bus.notify_many(map(event, range(4)))
            await all_are_here.wait()
            shadows = [shadow for shadow, _ in got]
            assert [await bus.fetch_event_data(shadow) for shadow in shadows] == [0, 1, 2, 3]
            await bus.mark_as_completed(key, shadows[0])
            await bus.mark_as_skipped(listener, shadows[1])
            await bus.mark_many(key, [shadows[2], ("a", "3")], "skipped", reason="enough")
            await bus.drain(timeout_s=WAIT_S)
            assert await bus.fetch_event(shadows[0]) is None
            assert await bus.unsubscribe(listener)
            assert not await bus.subscribed(listener, ["a"])
        assert got[0][1] == {"shelf": 1}

    run(main)


def test_a_handler_that_publishes_and_waits(open_bus: Open) -> None:
    async def main() -> None:
        got: list[int] = []

        async with open_bus() as bus:

            @bus.on("a", concurrency=5)
            async def double(event: Event) -> None:
                await bus.notify_and_wait(Event(event.id, "b", event.data * 2), timeout_s=WAIT_S)

            @bus.on("b")
            async def keep(event: Event) -> None:
                got.append(event.data)

            await bus.notify_many(map(event, range(50)))
            await bus.drain(timeout_s=WAIT_S)
        assert sorted(got) == [2 * number for number in range(50)]

    run(main)


def test_large_events_are_read_in_place(open_bus: Open) -> None:
    async def main() -> None:
        data = bytes(range(256)) * 4096
        async with open_bus(memory_bytes_max=64 << 20) as bus, await bus.inbox("one", ["a"]) as inbox:
            for number in range(20):
                await bus.notify(Event(str(number), "a", memoryview(data)))
                ((shadow, found),) = await inbox.events(1, timeout_s=WAIT_S)
                assert bytes(found.data) == data
                del found
                await inbox.complete(shadow)
            assert (await bus.statistics()).memory_bytes_leased == 0

    run(main)


def test_threads_and_tasks_share_a_bus(open_bus: Open, bus: EventBus) -> None:
    with bus.inbox("threads", ["a"]) as theirs:

        async def main() -> None:
            async with open_bus() as ours, await ours.inbox("tasks", ["b"]) as inbox:
                await ours.notify(event(1))
                bus.notify(event(2, "b"))
                shadow = await inbox.get()
                assert await ours.fetch_event_data(shadow) == 2
                await inbox.complete(shadow)

        run(main)
        shadow = theirs.get(WAIT_S)
        assert bus.fetch_event_data(shadow) == 1
        theirs.complete(shadow)


def test_ten_thousand_wait_at_once(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus(memory_bytes_max=64 << 20) as bus:

            @bus.on("a", concurrency=100)
            async def handle(event: Event) -> None:
                await asyncio.sleep(0)

            await bus.connect()
            calls = [bus.notify_and_wait(event(number)) for number in range(10_000)]
            watchers = await asyncio.gather(*calls)
            assert all(len(watcher.completers) == 1 for watcher in watchers)

    run(main)


# --- questions ---


def test_what_can_be_asked(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            assert await bus.register_topic("c")
            assert not await bus.register_topic("c")
            assert await bus.topics() == ["a", "b", "c"]
            assert await bus.topic_exists("c")
            assert await bus.unregister_topic("c")
            shadow = await bus.notify(event(1))
            assert (await bus.watcher(shadow)).subscribers == (inbox.key,)
            assert len(await bus.watchers("a")) == 1
            assert [item.key for item in await bus.subscribers("a")] == [inbox.key]
            assert (await bus.snapshot()).bus == "test"
            assert (await bus.statistics()).events_unsettled == 1
            assert len((await bus.explain(("a", "1"))).deliveries) == 1
            assert len(await bus.stuck(0.0)) == 1
            assert any("notified" in line for line in await bus.story(shadow))
            assert (await bus.history(topic="a")).entries
            with pytest.raises(WaitTimeout, match="is not drained"):
                await bus.drain(timeout_s=0.01)
            with pytest.raises(WaitTimeout, match="is not settled"):
                await bus.notify_and_wait(event(2), timeout_s=0.01)

    run(main)


def test_dead_letters_are_sent_again(open_bus: Open) -> None:
    async def main() -> None:
        is_broken = True
        got: list[int] = []

        async def fail(event: Event) -> None:
            if is_broken:
                raise ValueError("broken")
            got.append(event.data)

        async with open_bus(topics=["a", "dead"], dead_letter_topic="dead") as bus:
            bus.on("a", name="one")(fail)
            async with await bus.inbox("undertaker", ["dead"]):
                await bus.notify_and_wait(event(4))
                (letter,) = await bus.dead_letters()
                assert (letter.error, letter.text, letter.attempts) == ("ValueError", "broken", 1)
                is_broken = False
                assert await bus.redeliver(letter) == 1
                await bus.drain("a", timeout_s=WAIT_S)
        assert got == [4]

    run(main)


# --- mistakes, and the ends ---


def test_mistakes_are_told_where_they_are_made(open_bus: Open) -> None:
    async def generator(event: Event) -> AsyncIterator[int]:
        yield 1

    async def main() -> None:
        bus = open_bus()
        with pytest.raises(UsageError, match="an async generator function"):
            bus.on("a")(generator)
        with pytest.raises(UsageError, match="concurrency=0: give a number of calls"):
            bus.on("a", concurrency=0)
        with pytest.raises(InvalidPattern):
            bus.on("(")
        async with bus:
            bus.on("a")(print)
            with pytest.raises(EncodeError):
                await bus.notify(Event("1", "a", object()))
            with pytest.raises(UsageError):
                await bus.notify("no event")
            with pytest.raises(UsageError, match="timeout_s='soon'"):
                await bus.notify_and_wait(event(1), timeout_s="soon")
            with pytest.raises(UsageError, match="outcome='lost'"):
                await bus.mark_many("one", [], "lost")
        assert "closed" in repr(bus)
        for call in (bus.notify(event(1)), bus.topics(), bus.inbox("one", ["a"]), bus.connect()):
            with pytest.raises(BusClosed):
                await call
        await bus.close()

    run(main)


def test_a_handle_that_only_looks(open_bus: Open, run_dir: Any) -> None:
    async def main() -> None:
        with pytest.raises(NoSuchBus):
            await aio.EventBus.attach("test", run_dir=str(run_dir))
        with pytest.raises(UsageError, match="give either config or single settings"):
            await aio.EventBus.attach("test", config=BusConfig(), run_dir=str(run_dir))
        async with open_bus() as bus:
            async with await aio.EventBus.attach("test", run_dir=str(run_dir)) as observer:
                assert await observer.topics() == ["a", "b"]
                with pytest.raises(UsageError, match="only looks"):
                    await observer.register_topic("c")
                with pytest.raises(UsageError, match="only looks"):
                    await observer.notify(event(1))
            await bus.shutdown()
        assert not bus.connected

    run(main)


def test_the_threaded_bus_names_this_one(bus: EventBus) -> None:
    async def handle(event: Event) -> None:
        raise AssertionError("nobody runs this")

    with pytest.raises(UsageError, match=r"a coroutine function.*eventbus_mp\.aio\.EventBus awaits it"):
        bus.on("a")(handle)
