"""aio.Inbox over a real bus."""

import asyncio
import math
from collections.abc import Callable

import pytest

from eventbus_mp import BusClosed, NotSubscribed, UsageError, aio
from tests.aio.programs import WAIT_S, event, run

Open = Callable[..., aio.EventBus]


def test_an_inbox_as_an_iterator(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus:
            inbox = await bus.inbox("one", ["a"])
            got = []

            async def read() -> None:
                async for shadow in inbox:
                    got.append(await bus.fetch_event_data(shadow))
                    await inbox.complete(shadow)

            reading = asyncio.create_task(read())
            await bus.notify_many(map(event, range(30)))
            await bus.drain(timeout_s=WAIT_S)
            await inbox.close()
            await reading  # It ends with the inbox.
            assert got == list(range(30))
            with pytest.raises(BusClosed, match="inbox 'one' was closed"):
                await inbox.get()

    run(main)


def test_get_many_and_what_is_done_with_them(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            assert await inbox.get(0) is None
            assert await inbox.get_many(5, 0.01) == []
            await bus.notify_many(map(event, range(20)))
            shadows = await inbox.get_many(20, WAIT_S)
            assert [shadow.id for shadow in shadows] == [str(number) for number in range(20)]
            await inbox.complete_many(shadows[:10])
            await inbox.skip_many(shadows[10:18], "tired")
            await inbox.skip(shadows[18])
            await inbox.release(shadows[19])
            again = await inbox.get(WAIT_S)
            assert again == shadows[19]
            assert inbox.attempt(again) == 2
            await inbox.complete(again)
            await inbox.complete(again)  # It changes nothing.
            await bus.drain(timeout_s=WAIT_S)
            found = (await bus.statistics()).subscribers[0]
            assert (found.completed, found.skipped) == (11, 9)

    run(main)


def test_tasks_share_an_inbox(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as inbox:
            got: list[str] = []

            async def read() -> None:
                while (shadow := await inbox.get(WAIT_S)) is not None:
                    got.append(shadow.id)
                    await inbox.complete(shadow)

            readers = [asyncio.create_task(read()) for _ in range(5)]
            for number in range(200):
                await bus.notify(event(number))
            await bus.drain(timeout_s=WAIT_S)
            await inbox.close()
            ends = await asyncio.gather(*readers, return_exceptions=True)
            assert {type(end) for end in ends} == {BusClosed}
            assert sorted(map(int, got)) == list(range(200))

    run(main)


def test_what_is_no_shadow_of_this_inbox(open_bus: Open) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("one", ["a"]) as one, await bus.inbox("two", ["b"]) as two:
            await bus.notify(event(1))
            shadow = await one.get(WAIT_S)
            with pytest.raises(NotSubscribed):
                await two.complete(shadow)
            with pytest.raises(NotSubscribed, match="was not taken"):
                await one.complete(("a", "1"))
            with pytest.raises(UsageError, match=r"get_many\(0\) of inbox 'one'"):
                await one.get_many(0)
            for nothing in (None, 5, ("a", "1")):
                with pytest.raises(NotSubscribed, match="was not taken"):
                    await one.release(nothing)  # type: ignore[arg-type]
            await one.complete(shadow)

    run(main)


@pytest.mark.parametrize("timeout_s", [math.inf, -math.inf, 1e300, 10**300, -1, 0])
def test_any_number_is_a_timeout(open_bus: Open, timeout_s: float) -> None:
    async def main() -> None:
        async with open_bus() as bus, await bus.inbox("box", ["a"]) as inbox:
            if timeout_s <= 0:
                assert await inbox.get(timeout_s) is None
                assert await inbox.get_many(2, timeout_s) == []
            await bus.notify(event(1), timeout_s=timeout_s)
            while (shadow := await inbox.get(timeout_s)) is None:
                await asyncio.sleep(0)
            assert shadow.id == "1"

    run(main)
