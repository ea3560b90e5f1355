"""Blocks of an asyncio program that become events; tests/conformance has what they share with those of threads."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, aio
from tests.aio.programs import WAIT_S, run

Open = Callable[..., aio.EventBus]


def test_coroutine_functions_become_events(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            source = aio.EventSource(bus, "a")

            @source.emits
            async def double(number: int) -> int:
                await asyncio.sleep(0)
                return 2 * number

            async def work() -> str:
                await asyncio.sleep(0)
                return "built"

            assert await double(21) == 42
            shadow = await inbox.get(WAIT_S)
            assert shadow is not None
            assert await bus.fetch_event_data(shadow) == 42
            built: Event[Any] = await source.build(work)
            assert (built.topic, built.data) == ("a", "built")

    run(main)


def test_a_block_that_is_cancelled_publishes_nothing(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", [".*"]) as inbox:
            source = aio.EventSource(bus, "a", error_topic="b")
            begun = asyncio.Event()

            async def work() -> None:
                async with source.notify() as block:
                    block.data = 1
                    begun.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await inbox.get(0.05) is None

    run(main)
