"""A forked child that uses a handle whose parent has subscribed is warned: the events go to the parent."""

import logging
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus

Fork = Callable[[Callable[[Any], object]], Any]


class Said(logging.Handler):
    """The warnings of this process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        logging.getLogger("eventbus_mp").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def bill(event: Event) -> None:
    """Somebody is subscribed."""


@pytest.fixture
def subscribed(bus: EventBus) -> EventBus:
    """As a module is that a server's master has loaded."""
    bus.on("a", name="billing")(bill)
    bus.on("b", name="cache", broadcast=True)(bill)
    return bus


def publish(bus: EventBus) -> list[str]:
    """Use the bus in this process, and leave it: what was said."""
    said = Said()
    bus.notify(Event("1", "a", os.getpid()))
    bus.topics()
    bus.close()
    return said.texts


def test_it_is_said_once(subscribed: EventBus, fork: Fork) -> None:
    [text] = fork(lambda to_parent: to_parent.send(publish(subscribed))).hear()
    assert text.startswith("bus 'test': this process was forked after 'billing', 'cache' had been subscribed")
    assert "subscribe in each worker" in text
    subscribed.drain(timeout_s=20)


def test_a_child_of_a_child_hears_it(subscribed: EventBus, fork: Fork) -> None:
    """A daemon forks twice."""

    def work(to_parent: Any) -> None:
        child = os.fork()
        if not child:
            to_parent.send(publish(subscribed))
            os._exit(0)
        os.waitpid(child, 0)

    assert len(fork(work).hear()) == 1


def test_who_subscribes_for_itself_hears_nothing(subscribed: EventBus, fork: Fork) -> None:
    def work(to_parent: Any) -> None:
        subscribed.on("a", name="billing")(bill)
        to_parent.send(publish(subscribed))

    assert fork(work).hear() == []


def test_who_uses_a_handle_that_has_no_listener_hears_nothing(bus: EventBus, fork: Fork) -> None:
    bus.inbox("mine", ["a"])
    assert fork(lambda to_parent: to_parent.send(publish(bus))).hear() == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_multiprocessing_publishes_on_purpose(subscribed: EventBus) -> None:
    theirs, ours = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: ours.send(publish(subscribed)))
    child.start()
    assert theirs.poll(20)
    assert theirs.recv() == []
    child.join(20)
    assert child.exitcode == 0
