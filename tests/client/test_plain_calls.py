"""Handlers whose body a call does not run: refused where that is seen, and the event's failure where it is not."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

import pytest

from eventbus_mp import Event, EventBus, Instrument, UsageError, WorkerPool
from eventbus_mp.client.plain_calls import check_runs, refuse_unrun

Handle = Callable[..., EventBus]


async def coroutine(item: Any = None) -> None:
    raise AssertionError("nobody runs this")


async def async_generator(item: Any = None) -> AsyncIterator[int]:
    yield 1


def generator(item: Any = None) -> Iterator[int]:
    yield 1


class Asynchronous:
    async def __call__(self, item: Any) -> None:
        raise AssertionError("nobody runs this")

    async def process(self, item: Any) -> None:
        raise AssertionError("nobody runs this")

    def generate(self, item: Any) -> Iterator[int]:
        yield 1

    @staticmethod
    async def static(item: Any) -> None:
        raise AssertionError("nobody runs this")


class ProcessesLater:
    async def process(self, shadow: Any) -> None:
        raise AssertionError("nobody runs this")


class CallableLater:
    async def __call__(self, item: Any) -> None:
        raise AssertionError("nobody runs this")


SEEN = [
    (coroutine, "a coroutine function"),
    (async_generator, "an async generator function"),
    (generator, "a generator function"),
    (functools.partial(coroutine), "a coroutine function"),
    (functools.partial(functools.partial(generator)), "a generator function"),
    (functools.partial(CallableLater()), "a coroutine function"),
    (CallableLater(), "a coroutine function"),
    (CallableLater().__call__, "a coroutine function"),
    (Asynchronous().generate, "a generator function"),
    (Asynchronous.static, "a coroutine function"),
]


@pytest.mark.parametrize(("function", "kind"), SEEN)
@pytest.mark.parametrize("batch", [None, 5])
def test_what_would_not_run_is_refused_where_it_is_given(
    bus: EventBus, function: Any, kind: str, batch: int | None
) -> None:
    pool = WorkerPool(bus, 1)
    for on in (bus.on, pool.on):
        with pytest.raises(UsageError, match=f"handler .* is {kind}: the bus would call it"):
            on("a", name="one", batch=batch)(function)
    assert bus._session is None


@pytest.mark.parametrize(("function", "kind"), [*SEEN, (ProcessesLater(), "a coroutine function")])
def test_as_a_listener_as_well(bus: EventBus, function: Any, kind: str) -> None:
    for subscribe in (bus.subscribe, WorkerPool(bus, 1).subscribe):
        for listener in (function, (function, {"region": "eu"})):
            with pytest.raises(UsageError, match=f"listener .* is {kind}"):
                subscribe(listener, ["a"])
    assert bus._session is None


@pytest.mark.parametrize("name", ["initializer", "finalizer"])
def test_as_what_prepares_a_worker(bus: EventBus, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} .* is a coroutine function"):
        WorkerPool(bus, 1, **{name: coroutine})  # type: ignore[arg-type]


def test_a_plain_function_around_a_coroutine_function_is_fine() -> None:
    @functools.wraps(coroutine)
    def run(item: Any) -> None:
        asyncio.run(coroutine(item))

    for function in (run, functools.partial(run), print, len, Asynchronous, "".join, functools.lru_cache(run)):
        check_runs("handler", function)


class Awaitable:
    def __await__(self) -> Iterator[Any]:
        yield


def returning(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A plain function that returns what `make` makes, as a lambda does."""
    return lambda item: make(item)  # noqa: PLW0108  (that it is a plain function is the point)


UNSEEN: dict[str, Callable[[Any], Any]] = {
    "coroutine": returning(coroutine),
    "async generator": returning(async_generator),
    "generator": returning(generator),
    "generator expression": lambda item: (number for number in range(3)),
    "awaitable": lambda item: Awaitable(),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", UNSEEN)
@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("instruments", [[], [1]])
def test_what_returns_something_that_has_not_run_fails_its_event(
    handle: Handle,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    batch: int | None,
    instruments: Any,
) -> None:
    bus = handle(instruments=[Sees() for _ in instruments])
    bus.on("a", name="one", batch=batch)(UNSEEN[kind])
    with caplog.at_level(logging.ERROR, "eventbus_mp"):
        bus.notify(Event("1", "a", 1))
        bus.drain(timeout_s=5)
    (found,) = bus.statistics().subscribers
    assert (found.completed, found.skipped) == (0, 1)
    assert "which the bus does not run" in found.recent_skips[0][1]
    assert "which the bus does not run" in caplog.text
    assert Sees.outcomes in ([], [("failed",)])
    assert bool(Sees.outcomes) is bool(instruments)
    Sees.outcomes.clear()


class Sees(Instrument):
    outcomes: ClassVar[list[Any]] = []

    def after_handle(self, subscriber: Any, items: Any, outcomes: Any, error: Any) -> None:
        Sees.outcomes.append(outcomes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", UNSEEN)
def test_a_listener_s_event_does_not_stay_in_flight_for_ever(handle: Handle, kind: str) -> None:
    bus = handle()
    bus.subscribe((UNSEEN_LISTENER, kind), ["a"])
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=5)
    (found,) = bus.statistics().subscribers
    assert (found.completed, found.skipped) == (0, 1)


def UNSEEN_LISTENER(shadow: Any, kind: str) -> Any:
    return UNSEEN[kind](shadow)


@pytest.mark.parametrize("value", [None, 5, "text", [1], iter([1]), object(), coroutine, Awaitable])
def test_any_other_result_is_ignored(value: Any) -> None:
    refuse_unrun(value)
