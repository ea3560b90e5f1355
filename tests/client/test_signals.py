"""Signal handlers that call the bus: it works, or it is refused; it never waits for itself."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, UsageError

Make = Callable[..., EventBus]
Fork = Callable[..., Any]
EVENTS = 10_000


@pytest.mark.parametrize("batch", [1, 5])
def test_a_handler_that_publishes_in_the_middle_of_publishing(bus: EventBus, fork: Fork, batch: int) -> None:
    got: list[str] = []
    bus.on("a|b", name="counter")(lambda event: got.append(event.topic))

    def work(to_parent: Any) -> None:
        sent, refusals = [], []

        def publish(*_: Any) -> None:
            try:
                bus.notify(Event("1", "b", 1))
                sent.append(1)
            except UsageError as error:
                refusals.append(str(error))

        bus.notify(Event("0", "b", 0))  # Its number is known from now on.
        signal.signal(signal.SIGALRM, publish)
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
        for number in range(0, EVENTS, batch):
            if batch == 1:
                bus.notify(Event(str(number), "a", number))
            else:
                bus.notify_many(Event(str(number + n), "a", number + n) for n in range(batch))
        signal.setitimer(signal.ITIMER_REAL, 0)
        bus.drain(timeout_s=30)
        to_parent.send((len(sent), refusals))

    child = fork(work)
    sent, refusals = child.hear(60)
    assert child.wait() == 0
    bus.drain(timeout_s=20)
    assert got.count("a") == EVENTS
    assert got.count("b") == sent + 1
    assert sent
    assert sent + len(refusals) > 10
    assert all("in the middle of another of its calls in this thread" in text for text in refusals)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(") ")[2][0]


def test_a_handler_closes_the_bus_that_its_thread_waits_for(bus: EventBus, fork: Fork) -> None:
    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"])
        signal.signal(signal.SIGUSR1, lambda *_: bus.close())
        taken = []
        for shadow in inbox:
            inbox.complete(shadow)
            taken.append(shadow.id)
            to_parent.send(taken)
        with pytest.raises(BusClosed):
            bus.topics()
        to_parent.send("ended")

    child = fork(work)
    while not bus.subscribers():
        bus.topics()
    bus.notify(Event("1", "a", 1))
    assert child.hear() == ["1"]
    os.kill(child.pid, signal.SIGUSR1)
    assert child.hear() == "ended"
    assert child.wait() == 0


def test_what_a_handler_may_do_while_its_thread_waits(bus: EventBus, fork: Fork) -> None:
    """It may publish what needs no answer; what does would wait for the thread that it interrupts."""
    listener = bus.inbox("listener", ["b"])

    def work(to_parent: Any) -> None:
        inbox = bus.inbox("one", ["a"])
        bus.notify(Event("0", "b", 0))
        refused = []

        def publish(*_: Any) -> None:
            with pytest.raises(UsageError, match="would wait for itself") as caught:
                bus.topics()
            refused.append(str(caught.value))
            bus.notify(Event("1", "b", 1))

        signal.signal(signal.SIGUSR1, publish)
        to_parent.send("waiting")
        shadow = inbox.get(30)
        assert shadow is not None
        to_parent.send((shadow.id, len(refused)))

    child = fork(work)
    assert child.hear() == "waiting"
    shadow = listener.get(20)
    assert shadow is not None
    listener.complete(shadow)
    while _state(child.pid) != "S":
        bus.topics()
    os.kill(child.pid, signal.SIGUSR1)
    second = listener.get(20)
    assert second is not None
    assert second.id == "1"
    listener.complete(second)
    bus.notify(Event("9", "a", 9))
    assert child.hear() == ("9", 1)
    assert child.wait() == 0


def test_other_threads_are_not_refused(bus: EventBus) -> None:
    bus.inbox("one", ["a"], credit=100_000)

    def publish() -> None:
        for number in range(500):
            bus.notify(Event(str(number), "a", number))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert bus.statistics().events_notified == 2000
