"""An asyncio process that is idle gives back the memory of events that only the garbage collector frees."""

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, aio
from tests.aio.programs import WAIT_S, run

Open = Callable[..., aio.EventBus]


class Fails(Exception):
    """What a handler raises."""


async def fail(events: Any) -> None:
    error = Fails()
    await asyncio.sleep(0)
    raise error  # Its traceback has this frame, which has the error and the events: a cycle.


@pytest.mark.parametrize("style", ["events", "batches", "inbox"])
def test_events_in_a_cycle(open_bus: Open, bus: EventBus, fork: Callable[..., Any], style: str) -> None:
    bus.topics()

    async def take(inbox: aio.Inbox) -> None:
        taken = 0
        while taken < 40:
            for shadow, event in await inbox.events(20):
                try:
                    await fail(event)
                except Fails:
                    taken += 1
                await inbox.complete(shadow)

    def work(to_parent: Any) -> None:
        gc.disable()  # As if the process made few objects.
        logging.disable()  # Pytest keeps what was logged, with its tracebacks.

        async def main() -> None:
            async with open_bus() as ours:
                if style == "inbox":
                    async with await ours.inbox("one", ["a"]) as inbox:
                        to_parent.send("ready")
                        await take(inbox)
                        await inbox.get()
                        return
                ours.on("a", name="one", batch=20 if style == "batches" else None)(fail)
                the_end = await ours.inbox("end", ["b"])
                to_parent.send("ready")
                await the_end.get()

        run(main)

    child = fork(work)
    assert child.hear() == "ready"
    bus.notify_many([Event(number, "a", memoryview(bytes(20_000))) for number in range(40)])
    left_s, settled = WAIT_S / 2, 0
    with bus.inbox("others", ["nothing"]) as pauses:  # A process that hears things is not idle.
        while settled < 40 or bus.statistics().memory_bytes_leased:
            pauses.get(0.05)
            left_s -= 0.05
            assert left_s > 0, bus.statistics()
            found = bus.statistics().subscribers[0]
            settled = found.completed + found.skipped
    bus.notify(Event("the end", "a" if style == "inbox" else "b", None))
    assert child.wait() == 0
