"""Cancellation, at every await: a call that is cancelled has done all of it or nothing, and nothing is lost by it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, aio
from tests.aio.programs import WAIT_S, event, run

Open = Callable[..., aio.EventBus]
CutOffs = Callable[..., Coroutine[Any, Any, int]]


async def ids(inbox: aio.Inbox) -> list[Any]:
    """What is in an inbox, all of it."""
    found = []
    while (shadow := await inbox.get(0.05)) is not None:
        found.append(shadow.id)
        await inbox.complete(shadow)
    return found


def test_connecting(open_bus: Open, cut_off: CutOffs) -> None:
    """Each attempt that is cancelled leaves no link; the last one finds the bus as if there had been none."""

    async def main() -> None:
        buses = []

        async def connect() -> None:
            buses.append(open_bus())
            await buses[-1].connect()

        assert await cut_off(connect) >= 2
        *cancelled, bus = buses
        links = (await bus.statistics()).links
        while links > 1:  # The manager hears of an end from the kernel; each question is a round trip to it.
            links = (await bus.statistics()).links
        assert not any(handle.connected for handle in cancelled)
        for handle in cancelled:
            await handle.close()
        await bus.close()

    run(main)


def test_subscribing_what_was_decorated(open_bus: Open, cut_off: CutOffs) -> None:
    """A call that is cancelled on the way leaves it to the next one, and one that comes meanwhile waits for it."""

    async def main() -> None:
        got: list[str] = []
        async with open_bus() as bus:

            async def decorate_and_publish() -> None:
                bus.on("a", name="one")(lambda event: got.append(event.id))
                await bus.notify(event(1))

            assert await cut_off(decorate_and_publish) >= 2
            bus.on("a", name="two")(lambda event: got.append(event.id))
            watchers = await asyncio.gather(*(bus.notify_and_wait(event(number)) for number in range(2, 5)))
            assert [len(watcher.completers) for watcher in watchers] == [2, 2, 2]
            await bus.drain()
        assert sorted(got) == ["1", "2", "2", "3", "3", "4", "4"]

    run(main)


def test_publishing_the_first_event_of_a_topic(open_bus: Open, cut_off: CutOffs) -> None:
    async def main() -> None:
        async with open_bus() as watching, await watching.inbox("one", ["a"]) as inbox, open_bus() as bus:
            numbers = iter(range(100))
            published = []

            async def publish() -> Any:
                bus._session.publisher.forget_topic("a")
                return (await bus.notify(event(next(numbers)))).id

            async def after(was_cancelled: bool, shadow_id: str | None) -> None:
                if not was_cancelled:
                    published.append(shadow_id)

            assert await cut_off(publish, after) >= 1
            assert await ids(inbox) == published

    run(main)


def test_publishing_while_the_memory_is_full(open_bus: Open) -> None:
    """What is cancelled while it waits for memory was not published; what waits on gets the memory."""

    async def main() -> None:
        async with open_bus(memory_bytes_max=16 << 20) as bus, await bus.inbox("one", ["a"]) as inbox:
            data = b"x" * (1 << 20)
            published: list[str] = []
            number = 0

            async def publish(number: int) -> None:
                published.append((await bus.notify(event(number, data=data))).id)

            while True:
                call = asyncio.create_task(publish(number))
                done, _ = await asyncio.wait({call}, timeout=0.5)
                if not done:
                    break
                number += 1
            assert number >= 4
            other = asyncio.create_task(publish(1_000))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await ids(inbox) == [*map(str, range(number)), "1000"]
            await other
            assert published[-1] == "1000"

    run(main)


def test_publishing_many(open_bus: Open, cut_off: CutOffs) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            serial = iter(range(1_000))
            runs: list[list[str]] = []

            async def publish() -> None:
                bus._session.publisher.forget_topic("a")
                runs.append([str(next(serial)) for _ in range(10)])
                await bus.notify_many([Event(name, "a", 1) for name in runs[-1]])

            assert await cut_off(publish) >= 2
            assert await ids(inbox) == runs[-1]

    run(main)


def test_taking_from_an_inbox(open_bus: Open, cut_off: CutOffs) -> None:
    """At each await of `get` and `get_many`: the shadows are the next ones again, at the first attempt."""

    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            for number in range(10):
                await bus.notify(event(number))
            taken: list[Any] = []

            async def after(was_cancelled: bool, shadows: Any) -> None:
                taken.extend([] if was_cancelled else shadows)

            async def take() -> list[Any]:
                inbox._session.fetcher._topic_names.clear()
                return await inbox.get_many(10)

            await cut_off(take, after)
            while len(taken) < 10:
                taken.extend(await inbox.get_many(10))
            assert [shadow.id for shadow in taken] == [str(number) for number in range(10)]
            assert {inbox.attempt(shadow) for shadow in taken} == {1}
            await inbox.complete_many(taken)

    run(main)


@pytest.mark.parametrize("is_late", [False, True], ids=["before it arrives", "just as it arrives"])
def test_a_wait_for_an_inbox_that_is_given_up(open_bus: Open, is_late: bool) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            waiting = asyncio.create_task(inbox.get())
            await asyncio.sleep(0)
            if is_late:
                await bus.notify(event(1))
                while not inbox._endpoint.pending:
                    await asyncio.sleep(0)
            waiting.cancel()
            try:
                assert (await waiting).id == "1"
            except asyncio.CancelledError:
                if not is_late:
                    await bus.notify(event(1))
                shadow = await inbox.get(WAIT_S)
                assert shadow.id == "1"
                assert inbox.attempt(shadow) == 1

    run(main)


def test_settling(open_bus: Open, cut_off: CutOffs) -> None:
    async def main() -> None:
        async with open_bus() as bus, open_bus() as other, await bus.inbox("one", ["a"]) as inbox:
            await bus.notify_many([event(number) for number in range(3)])
            await inbox.get_many(3, WAIT_S)

            async def settle() -> None:
                await other.mark_many("one", [("a", "0"), ("a", "1"), ("a", "2")])

            assert await cut_off(settle) >= 2
            assert (await bus.statistics()).events_unsettled == 0

    run(main)


def test_waiting_for_an_event(open_bus: Open, cut_off: CutOffs) -> None:
    """The manager hears that nobody waits any more, and the event stays published."""

    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            for timeout_s in (None, 30):
                call = asyncio.create_task(bus.notify_and_wait(event(1), timeout_s=timeout_s))
                shadow = await inbox.get()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await inbox.complete(shadow)
            link = bus._session.link
            await bus.drain()
            assert (link._replies, link._conditions) == ({}, {})
            assert not list(bus._session.connection.protocol.arrived_replies())

    run(main)


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("batch", [None, 3])
def test_a_handler_that_is_cancelled_hands_its_events_back(open_bus: Open, concurrency: int, batch: int | None) -> None:
    """The bus is left by an exception: its handlers are cancelled, and another process gets what they had."""

    async def main() -> None:
        begun = asyncio.Event()
        ends: list[str] = []

        async def hang(events: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async def fail() -> None:
            async with open_bus() as bus:
                bus.on("a", name="one", concurrency=concurrency, batch=batch, within_s=0 if batch else None)(hang)
                for number in range(6):
                    await bus.notify(event(number))
                await begun.wait()
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        assert set(ends) == {"cancelled"}
        async with open_bus() as other, await other.inbox("one", ["a"]) as inbox:
            shadows: list[Any] = []
            while len(shadows) < 6:
                shadows += await inbox.get_many(6)
            assert sorted(shadow.id for shadow in shadows) == [str(number) for number in range(6)]
            assert {inbox.attempt(shadow) for shadow in shadows} == {1}

    run(main)


def test_a_handler_whose_own_task_was_cancelled_lives_on(open_bus: Open) -> None:
    """It awaits something that somebody has cancelled: the event comes again, and the handler gets the next one."""

    async def main() -> None:
        calls: list[str] = []

        async def handle(event: Event) -> None:
            calls.append(event.id)
            if calls == ["0"]:
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future

        async with open_bus() as bus:
            bus.on("a", name="one")(handle)
            await bus.notify(event(0))
            await bus.notify_and_wait(event(1))
            await bus.drain(timeout_s=WAIT_S)
            found = (await bus.statistics()).subscribers[0]
            assert (found.completed, found.skipped) == (2, 0)
        assert calls == ["0", "1", "0"]

    run(main)


def test_a_handler_that_limits_itself(open_bus: Open) -> None:
    async def main() -> None:
        async def handle(event: Event) -> None:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)

        async with open_bus() as bus:
            bus.on("a", name="one")(handle)
            await bus.notify_and_wait(event(0), timeout_s=WAIT_S)
            assert "Timeout" in dict((await bus.statistics()).subscribers[0].recent_skips)["0"]

    run(main)


def test_closing(open_bus: Open, bus: EventBus) -> None:
    """Cancelled while it waits for a handler, `close` closes all the same, and another process gets the event."""
    bus.topics()

    async def main() -> None:
        ours = open_bus()
        begun = asyncio.Event()

        @ours.on("a", name="one")
        async def hang(event: Event) -> None:
            begun.set()
            await asyncio.Event().wait()

        await ours.connect()
        await ours.notify(event(1))
        await begun.wait()
        closing = asyncio.create_task(ours.close())
        done, _ = await asyncio.wait({closing}, timeout=0.05)
        assert not done
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not ours.connected

    run(main)
    with bus.inbox("one", ["a"]) as inbox:
        shadow = inbox.get(WAIT_S)
        assert (shadow.id, inbox.attempt(shadow)) == ("1", 1)
        inbox.complete(shadow)


def test_a_program_that_ends_without_closing(open_bus: Open, bus: EventBus, fork: Callable[..., Any]) -> None:
    """The loop ends, which cancels every task, and then the process: another one gets what it had.

    What the handler had is not begun again in the turns that the loop still takes.
    """
    bus.topics()

    async def main() -> None:
        ours = open_bus()
        kept.append(ours)
        begun = asyncio.Event()

        async def linger() -> None:
            try:
                await asyncio.Event().wait()
            finally:  # The manager has the event again at the second round trip, and could send it at the third.
                for _ in range(3):
                    await ours.statistics()

        @ours.on("a", name="one", concurrency=3)
        async def hang(event: Event) -> None:
            calls.append(event.id)
            begun.set()
            await asyncio.Event().wait()

        await ours.connect()
        lingering.append(asyncio.create_task(linger()))
        await ours.notify(event(1))
        await begun.wait()

    def work(to_parent: Any) -> None:
        run(main)
        to_parent.send(calls)

    kept: list[aio.EventBus] = []
    lingering: list[asyncio.Task[None]] = []
    calls: list[str] = []
    child = fork(work)
    assert child.hear(WAIT_S) == ["1"]
    assert child.wait() == 0
    with bus.inbox("one", ["a"]) as inbox:
        shadow = inbox.get(WAIT_S)
        assert (shadow.id, inbox.attempt(shadow)) == ("1", 1)
        inbox.complete(shadow)
