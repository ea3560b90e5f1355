"""A handle belongs to one event loop: what its calls do in another one, and when that loop has ended."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, UsageError, aio

Open = Callable[..., aio.EventBus]
WAIT_S = 60.0


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), WAIT_S))


def event(number: int, topic: str = "a") -> Event:
    return Event(str(number), topic, number)


def loop_with_a_call(ours: aio.EventBus) -> asyncio.AbstractEventLoop:
    """A loop that has begun the handler of event 1, which does not end by itself."""

    async def handle(event: Event) -> None:
        started.set_result(None)
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    started = loop.create_future()
    ours.on("a", name="one")(handle)
    loop.run_until_complete(ours.notify(event(1)))
    loop.run_until_complete(started)
    return loop


def test_another_loop_is_told_apart(open_bus: Open) -> None:
    bus = open_bus()
    calls: list[Callable[[], Awaitable[object]]] = [bus.connect, bus.topics, bus.close]
    run(calls[0])
    with pytest.raises(UsageError, match="was connected in another event loop"):
        run(calls[1])
    run(calls[2])


def test_what_its_loop_has_left_behind(open_bus: Open, bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """No call of another loop is served, nor waits for ever; `close` hands back what handlers and readers had."""
    ours = open_bus()
    loop = loop_with_a_call(ours)
    inbox = loop.run_until_complete(ours.inbox("box", ["b"]))
    reading = loop.create_task(inbox.get())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: ours.notify(event(2)),
        lambda: ours.notify_many([event(2)]),
        lambda: ours.notify_and_wait(event(2)),
        inbox.get,
        inbox.close,
        ours.shutdown,
    ]
    for call in calls:
        with pytest.raises(UsageError, match="was connected in another event loop"):
            run(call)
    run(ours.close)
    run(ours.close)
    found = bus.snapshot().subscribers
    assert [(item.name, item.pids, item.queued) for item in found] == [("one", (), 1), ("box", (), 0)]
    del reading
    gc.collect()
    assert not [record for record in caplog.records if record.name == "eventbus_mp"]


def test_it_is_not_closed_beside_its_loop(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus:
            with pytest.raises(UsageError, match="was connected in another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(bus.close()))
            await bus.notify(event(1))

    run(main)


def test_a_task_that_is_garbage_ends_quietly(open_bus: Open, bus: EventBus) -> None:
    """Its loop has ended: there is nobody to ask which task it is."""
    ours = open_bus()
    loop = loop_with_a_call(ours)
    tasks = asyncio.all_tasks(loop)
    loop.close()
    for task in tasks:
        task.get_coro().close()  # type: ignore[union-attr]  # As the collector does.
    asyncio.run(ours.close())
    with bus.inbox("one", ["a"]) as inbox:
        shadow = inbox.get(20)
        assert shadow == ("a", "1")
        inbox.complete(shadow)
