"""`lifecycle_topic`: what a bus says of itself, with real processes, through the death of a process and a manager."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox

Make = Callable[..., EventBus]


@pytest.fixture
def bus(make_bus: Make) -> EventBus:
    return make_bus(topics=["a"], lifecycle_topic="eventbus.lifecycle", dead_letter_topic="dead", orphan_grace_s=0)


def heard(bus: EventBus, inbox: Inbox, count: int) -> list[dict[str, Any]]:
    """The next facts, without their times."""
    facts = []
    for _ in range(count):
        shadow = inbox.get(20)
        assert shadow is not None
        event = bus.fetch_event(shadow)
        assert event is not None
        assert abs(event.data["at_ns"] - time.monotonic_ns()) < 60_000_000_000
        facts.append({key: value for key, value in event.data.items() if key != "at_ns"})
        inbox.complete(shadow)
    return facts


def test_what_a_bus_says_of_itself(bus: EventBus, fork: Any) -> None:
    inbox = bus.inbox("watch", ["eventbus.lifecycle"])
    bus.register_topic("b")

    def work(to_parent: Any) -> None:
        bus.on("a", name="bill")(lambda event: 1 / 0)
        to_parent.send(os.getpid())
        signal.pause()

    child = fork(work)
    pid = child.hear()
    letters = bus.inbox("letters", ["dead"])
    bus.notify(Event("1", "a", 1))
    letter = letters.get(20)
    assert letter is not None
    letters.complete(letter)
    child.kill()
    here = os.getpid()
    assert heard(bus, inbox, 7) == [
        {"action": "topic_registered", "topic": "b", "pid": here},
        {"action": "process_connected", "pid": pid, "role": "client"},
        {"action": "subscribed", "subscriber": "bill", "patterns": ["a"], "broadcast": False, "pid": pid},
        {"action": "subscribed", "subscriber": "letters", "patterns": ["dead"], "broadcast": False, "pid": here},
        {
            "action": "dead_lettered",
            "topic": "a",
            "subscriber": "bill",
            "reason": "ZeroDivisionError: division by zero",
            "attempts": 1,
            "dead_letter_topic": "dead",
        },
        {"action": "process_gone", "pid": pid, "role": "client", "crashed": True},
        {"action": "unsubscribed", "subscriber": "bill", "reason": "no process hosted it for 0 s", "pid": None},
    ]
    bus.drain(timeout_s=20)
    assert inbox.get(0) is None
    assert bus.snapshot().memory.bytes_of_the_gone == 0


def test_it_goes_on_through_a_takeover(bus: EventBus) -> None:
    inbox = bus.inbox("watch", ["eventbus.lifecycle"])
    bus.register_topic("b")
    bus.register_topic("c")
    for number in range(1, 3):
        os.kill(bus.statistics().manager_pid, signal.SIGKILL)
        bus.register_topic(f"d{number}")
    facts = heard(bus, inbox, 6)
    assert [fact["topic"] for fact in facts if fact["action"] == "topic_registered"] == ["b", "c", "d1", "d2"]
    assert [fact["takeovers"] for fact in facts if fact["action"] == "manager_replaced"] == [1, 2]


def test_who_only_looks_is_not_spoken_of(bus: EventBus) -> None:
    inbox = bus.inbox("watch", ["eventbus.lifecycle"])
    with EventBus.attach(bus.name, run_dir=bus.config.run_dir) as looker:
        looker.statistics()
    second = bus.inbox("watch too", [""])
    second.close()
    bus.register_topic("b")
    assert [fact["action"] for fact in heard(bus, inbox, 1)] == ["topic_registered"]
    shadow = bus.notify(Event("own", "eventbus.lifecycle", {"action": "mine"}))  # Nobody is kept from it.
    got = inbox.get(20)
    assert got == shadow
    inbox.complete(shadow)


def test_story_and_ids(bus: EventBus) -> None:
    inbox = bus.inbox("watch", ["eventbus.lifecycle"])
    bus.register_topic("b")
    bus.register_topic("c")
    first, second = inbox.get(20), inbox.get(20)
    assert first is not None
    assert second is not None
    assert str(first.id).rpartition("-")[0] == str(second.id).rpartition("-")[0] != ""
    assert bus.story(first)[0].endswith("notified by the bus")
    inbox.complete_many([first, second])


def test_off_by_default(make_bus: Make) -> None:
    bus = make_bus(topics=["eventbus.lifecycle"])
    inbox = bus.inbox("watch", ["eventbus.lifecycle"])
    bus.register_topic("b")
    assert inbox.get(0) is None
