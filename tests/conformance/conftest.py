"""The kinds of bus that have to do the same: of processes or of one thread (`TestBus`), and the same for asyncio."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from eventbus_mp import EventBus, aio
from eventbus_mp.testing import TestBus
from tests.conformance.plain import LoopHere, LoopThread, Plain

KINDS = ("processes", "one thread", "asyncio", "asyncio, one thread")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of bus that this run of the test has."""
    return str(request.param)


@pytest.fixture
def make_bus(kind: str, make_bus: Callable[..., EventBus]) -> Iterator[Callable[..., Any]]:
    """Makes a bus of this kind, or another handle of it. Those of asyncio have the calls of the others (`Plain`)."""
    with ExitStack() as stack:
        if kind == "processes":
            yield make_bus
        elif kind == "one thread":

            def make_one(name: str = "test", topics: Any = (), **settings: Any) -> EventBus:
                return stack.enter_context(TestBus(name, topics, **settings))

            yield make_one
        else:
            arguments = inspect.signature(aio.EventBus).parameters
            loops: list[Any] = [stack.enter_context(LoopThread())] if kind == "asyncio" else []

            def make_plain(name: str = "test", topics: Any = (), **settings: Any) -> Plain:
                ours = {key: settings.pop(key) for key in tuple(settings) if key in arguments}
                if kind == "asyncio":
                    config = make_bus(name, topics, **settings).config  # It is not used. Its bus is shut down.
                elif loops:
                    config = replace(loops[0].bus.config, **settings)
                else:
                    test_bus = stack.enter_context(TestBus(name, **settings))
                    loops.append(stack.enter_context(LoopHere(test_bus)))
                    config = test_bus.config
                plain = Plain(aio.EventBus(name, topics, config=config, **ours), loops[0])
                stack.callback(plain.close)
                return plain

            yield make_plain
