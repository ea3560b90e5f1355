"""What is trio's own: the block that a handle is used in, what comes out of it, and how its tasks are cancelled."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, NoSuchBus, UsageError, aio
from tests.aio.programs import WAIT_S, event

trio = pytest.importorskip("trio", reason="trio is not installed; the extra `trio` has it")

Open = Callable[..., aio.EventBus]


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        with trio.fail_after(WAIT_S):
            await main()

    trio.run(limited)


class CutOff:
    """Awaits a coroutine up to its await of this number, before which its scope is cancelled; 0: the first one."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._left = at

    def __await__(self) -> Generator[Any, Any, bool]:
        sent: Any = None
        with trio.CancelScope() as scope:
            while True:
                try:
                    waited_for = self._work.send(sent)
                except StopIteration:
                    return self._left >= 0  # else: it was cancelled, and has ended all the same
                if not self._left:
                    scope.cancel()
                self._left -= 1
                sent = yield waited_for
        return False


async def cut_off(begin: Callable[[], Coroutine[Any, Any, Any]], after: Callable[[bool], Any] | None = None) -> int:
    """Cancels a call at each of its awaits, one after the other, and all that it awaits afterwards; how many there
    were. `after` is awaited after each, with whether the call has ended."""
    at = 0
    while True:
        has_ended = await CutOff(begin(), at)
        if after is not None:
            await after(has_ended)
        if has_ended:
            return at
        at += 1


# --- the block ---


def test_it_is_used_in_its_block(open_bus: Open, run_dir: Path) -> None:
    async def main() -> None:
        bus = open_bus()
        bus.on("a", name="one")(print)
        for call in (bus.connect, lambda: bus.notify(event(1)), bus.topics, bus.shutdown):
            with pytest.raises(UsageError, match=r"under trio, this handle of bus 'test' is used inside `async with"):
                await call()
        async with bus:
            with pytest.raises(UsageError, match="in an `async with` block already"):
                async with bus:
                    raise AssertionError("nobody comes here")
            with pytest.raises(UsageError, match="was connected in another event loop"):
                await trio.to_thread.run_sync(trio.run, bus.topics)
            assert await bus.topics() == ["a", "b"]
        await bus.close()
        for call in (bus.connect, lambda: bus.notify(event(1)), bus.__aenter__):
            with pytest.raises(BusClosed):
                await call()

    run(main)


def test_attach_connects_in_the_block(open_bus: Open, run_dir: Path) -> None:
    async def main() -> None:
        with pytest.raises(NoSuchBus):
            async with await aio.EventBus.attach("test", run_dir=str(run_dir)):
                raise AssertionError("nobody comes here")
        async with open_bus() as bus, await aio.EventBus.attach("test", run_dir=str(run_dir)) as observer:
            assert await observer.topics() == await bus.topics()

    run(main)


def test_what_is_raised_in_the_block_comes_out_of_it_as_it_is(open_bus: Open) -> None:
    async def main() -> None:
        async def fail() -> None:
            async with open_bus() as bus:
                bus.on("a", name="one")(print)
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        async with open_bus() as bus:
            await bus.shutdown()
            with pytest.raises(BusClosed):
                await bus.topics()

    run(main)


def test_a_block_that_runs_out_of_time(open_bus: Open, bus: EventBus) -> None:
    """In the middle of everything: a handler with tasks of its own, which has something to do at its end, a reader, and
    calls that wait."""
    ends: list[str] = []

    async def main() -> None:
        begun = trio.Event()

        async def hang(event: Event) -> None:
            begun.set()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    nursery.start_soon(trio.sleep_forever)
            finally:  # It is waited for.
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.01)
                ends.append(event.id)

        with trio.CancelScope() as scope:
            async with open_bus() as ours, await ours.inbox("box", ["b"]) as inbox, trio.open_nursery() as nursery:
                ours.on("a", name="one", retries=3)(hang)
                nursery.start_soon(inbox.get)
                nursery.start_soon(ours.notify_and_wait, event(1))
                nursery.start_soon(ours.drain)
                await begun.wait()
                scope.deadline = trio.current_time()
        assert scope.cancelled_caught
        assert not ours.connected

    bus.topics()
    run(main)
    assert ends == ["1"]
    with bus.inbox("one", ["a"]) as inbox:
        shadow = inbox.get(WAIT_S)
        assert (shadow.id, inbox.attempt(shadow)) == ("1", 1)
        inbox.complete(shadow)


def test_a_failure_of_a_handlers_nursery_is_the_handlers(open_bus: Open) -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError("broken")

        async def handle(event: Event) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)

        async with open_bus() as bus:
            bus.on("a", name="one")(handle)
            await bus.notify_and_wait(event(1), timeout_s=WAIT_S)
            assert "ExceptionGroup" in dict((await bus.statistics()).subscribers[0].recent_skips)["1"]

    run(main)


def test_a_handler_may_close_its_bus(open_bus: Open) -> None:
    async def main() -> None:
        closed = trio.Event()
        async with open_bus() as bus:

            @bus.on("a", name="one")
            async def handle(event: Event) -> None:
                await bus.close()
                closed.set()

            await bus.notify(event(1))
            await closed.wait()

    run(main)


def test_an_interrupt_ends_the_block(open_bus: Open, bus: EventBus, fork: Callable[..., Any]) -> None:
    """Ctrl-C arrives in the main task, whatever task of ours was running."""
    bus.topics()

    async def main() -> None:
        async with open_bus() as ours:

            @ours.on("a", name="one", concurrency=5)
            async def handle(event: Event) -> None:
                if event.data == 500:
                    os.kill(os.getpid(), signal.SIGINT)
                await trio.lowlevel.checkpoint()

            number = 0
            while True:
                await ours.notify(event(number))
                number += 1
                if number % 50 == 0:
                    await trio.sleep(0)

    def work(to_parent: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run(main)
        except BaseException as error:
            group = error
            while hasattr(group, "exceptions"):
                (group,) = group.exceptions
            to_parent.send(type(group).__name__)

    child = fork(work)
    assert child.hear(WAIT_S) == "KeyboardInterrupt"
    assert child.wait() == 0
    links = 2
    while links > 1:  # The kernel tells the manager.
        links = bus.statistics().links


def test_a_forked_child_runs_a_trio_of_its_own(open_bus: Open, bus: EventBus, fork: Callable[..., Any]) -> None:
    ours = open_bus()
    with bus.inbox("one", ["a"]) as inbox:

        async def main() -> None:
            async with ours:
                await ours.notify(event(1))

                def work(to_parent: Any) -> None:
                    async def child_main() -> None:
                        async with open_bus() as own:
                            await own.notify(event(2))

                    trio_in_a_thread(child_main)

                child = fork(work)
                assert await trio.to_thread.run_sync(child.wait) == 0
                await ours.notify(event(3))

        run(main)
        found = [inbox.get(WAIT_S) for _ in range(3)]
        inbox.complete_many(found)
        assert [shadow.id for shadow in found] == ["1", "2", "3"]


def trio_in_a_thread(main: Callable[[], Any]) -> None:
    """The thread that was forked is still in its parent's `trio.run`."""
    import threading

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()


# --- cancellation at every await ---


def test_calls_that_are_cut_off(open_bus: Open) -> None:
    """Cancelled at any await, and at all that come after it, a call has done all of it or nothing."""

    async def main() -> None:
        async with open_bus() as bus, open_bus() as other, await bus.inbox("one", ["a"]) as inbox:
            published: list[Any] = []
            numbers = iter(range(1_000))

            async def publish() -> None:
                bus._session.publisher.forget_topic("a")
                published.append((await bus.notify(event(next(numbers)))).id)

            async def publish_many() -> None:
                bus._session.publisher.forget_topic("a")
                published.extend(shadow.id for shadow in await bus.notify_many([event(next(numbers))]))

            assert await cut_off(publish) >= 1
            assert await cut_off(publish_many) >= 2
            assert len(published) == 2

            async def take() -> None:
                inbox._session.fetcher._topic_names.clear()
                taken.append(await inbox.get(WAIT_S))

            taken: list[Any] = []
            await cut_off(take)
            await cut_off(take)
            assert [shadow.id for shadow in taken] == published
            assert {inbox.attempt(shadow) for shadow in taken} == {1}
            assert await cut_off(lambda: other.mark_many("one", taken)) >= 1
            await bus.drain(timeout_s=WAIT_S)
            assert (bus._session.link._replies, bus._session.link._conditions) == ({}, {})

    run(main)


def test_connecting_that_is_cut_off(open_bus: Open) -> None:
    async def main() -> None:
        buses: list[aio.EventBus] = []

        async def connect() -> None:
            buses.append(open_bus())
            async with buses[-1] as bus:
                await bus.subscribe(print, ["a"])

        assert await cut_off(connect) >= 4
        assert not any(bus.connected for bus in buses)
        async with open_bus() as bus:
            while (await bus.statistics()).links > 1:
                await trio.lowlevel.checkpoint()

    run(main)


def test_it_is_imported_under_trio_only(run_dir: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from eventbus_mp import aio\n"
        "async def main():\n"
        f"    async with aio.EventBus('test', ['a'], run_dir={str(run_dir)!r}) as bus:\n"
        "        await bus.shutdown()\n"
        "asyncio.run(main())\n"
        "print(sorted({'trio', 'anyio', 'sniffio', 'eventbus_mp.aio.trio_loop'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
