"""The tasks that run handlers, when one of them ends before its time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, aio
from eventbus_mp.protocol.decoders import ManagerDecoder
from eventbus_mp.protocol.messages import DeliveriesSettled, DeliveriesTaken
from tests.aio.programs import WAIT_S, event, run

Open = Callable[..., aio.EventBus]


def test_what_goes_back_is_not_said_to_be_taken(open_bus: Open) -> None:
    """The manager may have sent it again by then, and would note as taken what waits in the pipe."""

    async def main() -> None:
        async with open_bus() as bus:
            begun = asyncio.Event()

            @bus.on("a", name="one", concurrency=2)
            async def hang(event: Event) -> None:
                begun.set()
                await asyncio.Event().wait()

            await bus.connect()
            session = bus._session
            assert session is not None
            session.reporter._reported_ns = 1 << 62  # As if something had been reported just now: what is taken waits,
            session.reporter._late.close()  # and its time does not come before the task is cancelled.
            await bus.notify(event(1))
            await begun.wait()
            endpoint = session.endpoints()[0]
            while not endpoint.kept:
                await asyncio.sleep(0)
            said = written(session.transport)
            session.tasks.cancel()
            await session.tasks.finish()
            found = ManagerDecoder(1).feed(b"".join(said))
            assert [type(message) for message in found] == [DeliveriesSettled]
            assert not any(isinstance(message, DeliveriesTaken) for message in found)

    run(main)


def written(transport: Any) -> list[bytes]:
    """What a transport writes from now on; it reaches the manager as well."""
    pieces: list[bytes] = []
    write = transport.write

    def note(data: bytes) -> None:
        pieces.append(data)
        write(data)

    transport.write = note
    return pieces


@pytest.mark.parametrize("batch", [None, 2])
def test_a_handler_that_cancels_its_own_task(open_bus: Open, batch: int | None) -> None:
    """What had arrived behind its event is handled, though nothing arrives any more."""

    async def main() -> None:
        calls: list[str] = []
        ended = asyncio.Event()

        async def handle(found: Any) -> None:
            calls.extend([event.id for event in found] if batch else [found.id])
            if "0" in calls and not ended.is_set():
                task = asyncio.current_task()
                assert task is not None
                task.add_done_callback(lambda task: ended.set())
                task.cancel()
                await asyncio.sleep(0)

        async with open_bus() as bus, open_bus() as other:
            bus.on("a", name="one", credit=10, batch=batch)(handle)
            await bus.notify_many([event(number) for number in range(6)])
            await ended.wait()
            await other.mark_many("one", [("a", event_id) for event_id in calls])  # They do not come again.
            await bus.drain(timeout_s=WAIT_S / 2)
            assert calls == [str(number) for number in range(6)]
            assert (await bus.statistics()).subscribers[0].completed == 6

    run(main)
