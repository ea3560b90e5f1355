"""The kinds of bus that have to do the same: of processes, of one thread (`TestBus`), and of an asyncio program."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from eventbus_mp import EventBus, aio
from eventbus_mp.testing import TestBus
from tests.conformance.plain import LoopThread, Plain

KINDS = ("processes", "one thread", "asyncio")


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
            loop = stack.enter_context(LoopThread())
            arguments = inspect.signature(aio.EventBus).parameters

            def make_plain(name: str = "test", topics: Any = (), **settings: Any) -> Plain:
                ours = {key: settings.pop(key) for key in tuple(settings) if key in arguments}
                config = make_bus(name, topics, **settings).config  # It is not used, and its bus shut down at the end.
                plain = Plain(aio.EventBus(name, topics, config=config, **ours), loop)
                stack.callback(plain.close)
                return plain

            yield make_plain
