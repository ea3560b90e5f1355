"""Instruments of an asyncio handle: each hook, the context that it is called in, and what a hook cannot break."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from eventbus_mp import Event, Instrument, Retry, Skip, SubscriberKey, UsageError, aio
from tests.aio.programs import WAIT_S, event, run
from tests.client.recorder import Recorder

Open = Callable[..., aio.EventBus]
NONE = type(None)


def test_connecting_subscribing_and_publishing(open_bus: Open) -> None:
    async def main() -> None:
        recorder = Recorder()
        bus = open_bus(instruments=[recorder])
        assert recorder.take() == []
        async with bus, await bus.inbox("one", ["a"]) as inbox:
            await bus.subscribe(len, ["b"])
            await bus.notify(event(1))
            await bus.notify_many([event(2), event(3)])
            await bus.notify_many(event(number) for number in (4, 5))
            waiting = asyncio.create_task(bus.notify_and_wait(event(6)))
            async with bus.loan("a", 3, id="7"):
                pass
            recorder.seen, seen = [], recorder.seen
            assert len(await inbox.get_many(7, WAIT_S)) == 7
            assert recorder.take() == [
                ("before_receive", "one", 7),
                ("after_receive", [("a", str(number)) for number in range(1, 8)], NONE),
            ]
            recorder.seen = seen
            waiting.cancel()
        names = ["builtins.len", "builtins.len"]
        assert recorder.take() == [
            ("before_connect", "test"),
            ("after_connect", "test", None),
            ("before_subscribe", "one", ("a",)),
            ("after_subscribe", "one", ("a",), NONE),
            ("before_subscribe", names[0], ("b",)),
            ("after_subscribe", names[1], ("b",), NONE),
            ("before_notify", ["1"]),
            ("after_notify", ["1"], [("a", "1")], NONE),
            ("before_notify", ["2", "3"]),
            ("after_notify", ["2", "3"], [("a", "2"), ("a", "3")], NONE),
            ("before_notify", ["4", "5"]),
            ("after_notify", ["4", "5"], [("a", "4"), ("a", "5")], NONE),
            ("before_notify", ["6"]),
            ("after_notify", ["6"], [("a", "6")], NONE),
            ("before_notify", ["7"]),
            ("after_notify", ["7"], [("a", "7")], NONE),
        ]

    run(main)


def test_fetching_and_settling_by_hand(open_bus: Open) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with open_bus(instruments=[recorder]) as bus, await bus.inbox("one", ["a"]) as inbox:
            await bus.notify_many([event(number) for number in range(4)])
            taken = await inbox.get_many(4, WAIT_S)
            recorder.take()
            assert await bus.fetch_event_data(taken[0]) == 0
            await inbox.complete(taken[0])
            await inbox.skip(taken[1], "no")
            await bus.mark_as_completed(inbox, ("a", "2"))
            await bus.mark_as_skipped("one", taken[3])
            assert await bus.fetch_event(taken[0]) is None
            assert recorder.take() == [
                ("before_fetch", ("a", "0")),
                ("after_fetch", ("a", "0"), 0, None),
                ("before_settle", "one", [("a", "0")], "completed"),
                ("after_settle", [("a", "0")], "completed", NONE),
                ("before_settle", "one", [("a", "1")], "skipped"),
                ("after_settle", [("a", "1")], "skipped", NONE),
                ("before_settle", "one", [("a", "2")], "completed"),
                ("after_settle", [("a", "2")], "completed", NONE),
                ("before_settle", "one", [("a", "3")], "skipped"),
                ("after_settle", [("a", "3")], "skipped", NONE),
                ("before_fetch", ("a", "0")),
                ("after_fetch", ("a", "0"), None, None),
            ]

    run(main)


def test_handling(open_bus: Open) -> None:
    """Both hooks surround all of a call, its awaits included; one is called again if the call is."""

    async def main() -> None:
        recorder = Recorder()
        tries = []

        async def handle(event: Event) -> None:
            await asyncio.sleep(0)
            tries.append(event.id)
            if event.id == "1":
                raise Skip("no")
            if event.id == "2" and tries.count("2") == 1:
                raise ValueError
            if event.id == "3" and tries.count("3") == 1:
                raise Retry

        async with open_bus(instruments=[recorder]) as bus:
            bus.on("a", name="one", retries=1)(handle)
            await bus.connect()
            recorder.take()
            for number in range(4):
                await bus.notify_and_wait(event(number), timeout_s=WAIT_S)
        calls = [(name, *rest) for name, *rest in recorder.take() if name.endswith("handle")]
        befores, afters = calls[::2], calls[1::2]
        assert befores == [("before_handle", "one", [number]) for number in ("0", "1", "2", "2", "3", "3")]
        assert afters == [
            ("after_handle", ["0"], ["completed"], NONE),
            ("after_handle", ["1"], ["skipped"], Skip),
            ("after_handle", ["2"], ["failed"], ValueError),
            ("after_handle", ["2"], ["completed"], NONE),
            ("after_handle", ["3"], ["retried"], Retry),
            ("after_handle", ["3"], ["completed"], NONE),
        ]

    run(main)


def test_handling_batches_and_shadows(open_bus: Open) -> None:
    async def main() -> None:
        recorder = Recorder()

        async def batch(events: list[Event]) -> list[Any]:
            await asyncio.sleep(0)
            return [None, Skip("no")]

        async def listener(shadow: Any) -> None:
            await asyncio.sleep(0)
            await bus.mark_as_completed(listener, shadow)

        async with open_bus(instruments=[recorder]) as bus:
            bus.on("a", name="one", batch=2)(batch)
            await bus.subscribe(listener, ["b"])
            recorder.take()
            await bus.notify_many([event(1), event(2)])
            await bus.drain(timeout_s=WAIT_S)
            await bus.notify_and_wait(event(3, topic="b"))
            await bus.connect()
        found = [call for call in recorder.take() if call[0].endswith("handle")]
        assert found[:2] == [
            ("before_handle", "one", ["1", "2"]),
            ("after_handle", ["1", "2"], ["completed", "skipped"], NONE),
        ]
        assert found[3] == ("after_handle", ["3"], ["open"], NONE)

    run(main)


def test_a_handler_that_is_cancelled(open_bus: Open) -> None:
    async def main() -> None:
        recorder = Recorder()
        begun = asyncio.Event()

        async def hang(event: Event) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def fail() -> None:
            async with open_bus(instruments=[recorder]) as bus:
                bus.on("a", name="one")(hang)
                await bus.notify(event(1))
                await begun.wait()
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        assert ("after_handle", ["1"], ["returned"], asyncio.CancelledError) in recorder.take()

    run(main)


trace: ContextVar[str] = ContextVar("trace", default="none")


class Tracer(Instrument):
    """As OpenTelemetry does: what one task sets travels, and is set again round the handler."""

    def before_notify(self, events: Sequence[Event]) -> Sequence[Event]:
        return [Event(event.id, event.topic, event.data, source=trace.get()) for event in events]

    def before_handle(self, subscriber: SubscriberKey, items: Sequence[Any]) -> None:
        trace.set(items[0].source)

    def after_handle(self, *arguments: Any) -> None:
        trace.set("none")


def test_a_trace_travels_from_task_to_task(open_bus: Open) -> None:
    """Handlers that are under way at once do not see each other's."""

    async def main() -> None:
        seen: dict[Any, str] = {}
        all_there = asyncio.Event()

        async def publish(number: int) -> None:
            trace.set(f"trace {number}")
            await bus.notify(event(number))

        async with open_bus(instruments=[Tracer()]) as bus:

            @bus.on("a", concurrency=5)
            async def handle(event: Event) -> None:
                seen[event.id] = trace.get()
                if len(seen) == 5:
                    all_there.set()
                await all_there.wait()
                seen[event.id] += f", {trace.get()}"

            await bus.connect()
            await asyncio.gather(*(publish(number) for number in range(5)))
            await bus.drain(timeout_s=WAIT_S)
        assert seen == {str(number): f"trace {number}, trace {number}" for number in range(5)}
        assert trace.get() == "none"

    run(main)


class Publishes(Instrument):
    """Its hook has a task publish, which would call the hook again."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []
        self.bus: aio.EventBus | None = None

    def after_notify(self, events: Sequence[Event], *rest: Any) -> None:
        assert self.bus is not None
        self.tasks.append(asyncio.create_task(self.bus.notify(Event(f"log-{events[0].id}", "b", None))))


def test_what_a_hook_has_a_task_do_has_no_hooks(open_bus: Open) -> None:
    async def main() -> None:
        instrument = Publishes()
        async with open_bus(instruments=[instrument]) as bus, await bus.inbox("logs", ["b"]) as inbox:
            instrument.bus = bus
            await bus.notify(event(1))
            await bus.notify(event(2))
            assert [(await inbox.get(WAIT_S)).id for _ in range(2)] == ["log-1", "log-2"]  # type: ignore[union-attr]
            await asyncio.gather(*instrument.tasks)
            assert len(instrument.tasks) == 2

    run(main)


class Broken(Instrument):
    def before_handle(self, *arguments: Any) -> None:
        raise KeyError("before")


class Awaited(Instrument):
    async def before_handle(self, *arguments: Any) -> None:  # type: ignore[override]
        """It would never run."""


class AwaitedToo(Instrument):
    async def before_notify(self, events: Sequence[Event]) -> None:  # type: ignore[override]
        """It would never run."""


@pytest.mark.parametrize("kind", [Broken, Awaited, AwaitedToo])
def test_one_that_raises_or_does_not_run_is_removed_and_logged(
    open_bus: Open, caplog: pytest.LogCaptureFixture, kind: type[Instrument]
) -> None:
    async def main() -> None:
        seen: list[str] = []
        async with open_bus(instruments=[kind()]) as bus:
            bus.on("a", name="one")(lambda event: seen.append(event.id))
            for number in range(2):
                await bus.notify_and_wait(event(number), timeout_s=WAIT_S)
        assert seen == ["0", "1"]

    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        run(main)
    assert [record.getMessage() for record in caplog.records] == [
        f"instrument {kind.__name__} raised and is removed; what it was called for goes on"
    ]


def test_a_takeover(open_bus: Open) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with open_bus(instruments=[recorder]) as bus, await bus.inbox("one", ["a"]):
            recorder.take()
            os.kill((await bus.statistics()).manager_pid, signal.SIGKILL)
            pid = (await bus.statistics()).manager_pid
            assert recorder.take() == [("before_takeover", "test", pid), ("after_takeover", "test", pid, None)]

    run(main)


def test_which_instruments_there_are(open_bus: Open) -> None:
    async def main() -> None:
        made: list[Recorder] = []

        def make() -> Recorder:
            made.append(Recorder())
            return made[-1]

        with pytest.raises(UsageError, match="5 is not an Instrument"):
            open_bus(instruments=[5])
        bus = open_bus(instruments=[make])
        assert not made
        async with bus:
            assert len(made[0].take()) == 2
        with pytest.raises(UsageError, match="made 0, which is not an Instrument"):
            await open_bus(instruments=[int]).connect()

    run(main)
