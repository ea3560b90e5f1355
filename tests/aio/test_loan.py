"""Loans of an asyncio program: filled in place, published at the end of the block, given back by an exception."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from eventbus_mp import BusFull, EventTooLarge, UsageError, aio
from tests.aio.programs import WAIT_S, event, run

Open = Callable[..., aio.EventBus]
CutOffs = Callable[..., Coroutine[Any, Any, int]]


async def take(bus: aio.EventBus, inbox: aio.Inbox) -> Any:
    """The next event, settled."""
    shadow = await inbox.get(WAIT_S)
    assert shadow is not None
    found = await bus.fetch_event(shadow)
    await inbox.complete(shadow)
    return found


def test_a_loan_is_filled_and_published(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            async with bus.loan("a", 100_000, id="1", source="me") as loan:
                assert loan.buffer is not None
                await asyncio.sleep(0)  # Filling may take its time.
                loan.buffer[:] = b"x" * 100_000
                await bus.notify(event(2))  # Others are published meanwhile.
            assert (await take(bus, inbox)).id == "2"
            found = await take(bus, inbox)
            assert (found.id, found.source, bytes(found.data)) == ("1", "me", b"x" * 100_000)
            assert loan.shadow == ("a", "1")
            with pytest.raises(ValueError, match="released"):
                loan.buffer[0] = 1
            async with bus.loan("a", shape=(3, 4), dtype="f4") as loan:
                loan.array[:] = 7
            data = (await take(bus, inbox)).data
            assert (data.shape, data.dtype, data.min()) == ((3, 4), np.dtype("f4"), 7)
            with pytest.raises(UsageError, match="was used already"):
                await loan.__aenter__()

    run(main)


def test_nobody_is_subscribed(open_bus: Open) -> None:
    async def main() -> None:
        bus = open_bus()
        async with bus.loan("a", 10) as loan:  # It connects.
            assert loan.buffer is not None
            loan.buffer[:] = bytes(10)
        assert loan.shadow is not None
        assert await bus.fetch_event(loan.shadow) is None
        assert (await bus.statistics()).memory_bytes_used == 0
        await bus.close()

    run(main)


def test_what_is_cancelled_is_given_back(open_bus: Open, cut_off: CutOffs) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            numbers = iter(range(100))

            async def lend() -> Any:
                assert bus._session is not None
                bus._session.publisher.forget_topic("a")
                async with bus.loan("a", 3 << 20, id=next(numbers)) as loan:
                    await asyncio.sleep(0)
                return loan.shadow

            published: list[Any] = []

            async def after(was_cancelled: bool, shadow: Any) -> None:
                published.extend([] if was_cancelled else [shadow])

            assert await cut_off(lend, after) >= 3
            assert (await take(bus, inbox)).id == published[0].id
            assert await inbox.get(0.05) is None
            async with bus.loan("a", 12 << 20):  # All of the memory is there.
                pass
            await take(bus, inbox)

    run(main)


def test_an_exception_gives_it_back(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            for _ in range(20):  # More than there is memory for.
                with pytest.raises(LookupError):
                    async with bus.loan("a", 3 << 20) as loan:
                        raise LookupError
                assert loan.shadow is None
            assert await inbox.get(0.05) is None

    run(main)


def test_memory_is_full(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus(notify_timeout_s=0.05) as bus, await bus.inbox("one", ["a"]) as inbox:
            async with bus.loan("a", 7 << 20):
                with pytest.raises(BusFull, match="no 10485760 bytes"):
                    async with bus.loan("a", 9 << 20):
                        pass
            await take(bus, inbox)

    run(main)


def test_mistakes_are_told_where_they_are_made(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus(event_bytes_max=1000) as bus, await bus.inbox("one", ["a"]):
            with pytest.raises(UsageError, match="give either a number of bytes, or shape= and dtype="):
                bus.loan("a")
            with pytest.raises(UsageError, match="an event has no field colour"):
                bus.loan("a", 1, colour=1)
            with pytest.raises(EventTooLarge, match="has 1024 bytes encoded"):
                async with bus.loan("a", 960):
                    pass

    run(main)
