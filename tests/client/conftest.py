"""A whole bus in this thread, for tests of the client that start no process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_mp import BusClosed, EventBus
from eventbus_mp.testing.inprocess import InProcessBus
from tests.client.gates import Gate
from tests.client.pipes import Peer
from tests.client.views import Make, Others

Handle = Callable[..., EventBus]


@pytest.fixture
def world() -> InProcessBus:
    """The manager's side of a bus with the topics "a" and "b"."""
    return InProcessBus()


@pytest.fixture
def handle(world: InProcessBus) -> Iterator[Handle]:
    """Makes clients of `world`; closed at the end, when nothing may be left in flight or leased."""
    handles: list[EventBus] = []

    def make(**settings: Any) -> EventBus:
        handles.append(world.handle(("a", "b"), **settings))
        return handles[-1]

    yield make
    for bus in handles:
        bus.close()
    world.run()
    assert not world.core.state.links


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.transport.close(BusClosed("the test is over"), b"")
    peer.leave()


@pytest.fixture
def others(make_bus: Make) -> Others:
    return Others(make_bus)
