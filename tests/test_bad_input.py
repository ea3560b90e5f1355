"""What bad input gets: an error that names the value and says what to do, and nothing stored."""

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from eventbus_mp import (
    BusClosed,
    BusConfig,
    BusFull,
    EncodeError,
    Event,
    EventBus,
    EventTooLarge,
    InvalidPattern,
    InvalidTopic,
    ManagerLost,
    NotSubscribed,
    UnknownTopic,
    UsageError,
    WorkerPool,
)

Make = Callable[..., EventBus]


WITHIN_ITSELF: dict[str, Any] = {}
WITHIN_ITSELF["self"] = WITHIN_ITSELF


def nothing_is_stored(bus: EventBus) -> bool:
    statistics = bus.statistics()
    return statistics.events_notified == statistics.events_unsettled == 0


def test_unknown_topic_when_strict(make_bus: Make) -> None:
    bus = make_bus(strict=True)
    with pytest.raises(UnknownTopic, match=r"'nowhere' is not registered; call register_topic\('nowhere'\) first"):
        bus.notify(Event("1", "nowhere", 1))
    assert nothing_is_stored(bus)


@pytest.mark.parametrize("topic", ["", "x" * 256, "tab\there", "bell\x07", "\ud800"])
def test_bad_topic_name(bus: EventBus, topic: str) -> None:
    with pytest.raises(InvalidTopic):
        bus.register_topic(topic)
    assert bus.topics() == ["a", "b"]


def test_pattern_that_does_not_compile_is_named(bus: EventBus) -> None:
    with pytest.raises(InvalidPattern, match=r"pattern '\(unclosed' does not compile"):
        bus.subscribe(print, ["fine", "(unclosed"])
    with pytest.raises(UsageError, match=r"write \['a'\]"):
        bus.subscribe(print, "a")
    assert bus.subscribers() == []


def test_data_that_cannot_be_encoded_names_the_path(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    with socket.socket() as culprit, pytest.raises(EncodeError, match=r"data\['items'\]\[3\]: <class 'socket"):
        bus.notify(Event("1", "a", {"items": [1, 2, 3, culprit]}))
    with pytest.raises(EncodeError, match="event '2' of topic 'a'"):
        bus.notify_many([Event("1", "a", 1), Event("2", "a", object())])
    assert inbox.get(0) is None
    assert nothing_is_stored(bus)


def test_event_over_the_limit(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], event_bytes_max=1000)
    bus.inbox("one", ["a"])
    with pytest.raises(EventTooLarge, match="event_bytes_max allows 1000"):
        bus.notify(Event("1", "a", b"x" * 1001))
    assert nothing_is_stored(bus)


def test_event_that_the_memory_can_never_hold(bus: EventBus) -> None:
    bus.inbox("one", ["a"])
    with pytest.raises(EventTooLarge, match=r"raise BusConfig\.memory_bytes_max"):
        bus.notify(Event("1", "a", b"x" * (17 << 20)))
    assert nothing_is_stored(bus)


def test_memory_full_names_the_holder(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], notify_timeout_s=0.2)
    inbox = bus.inbox("slow one", ["a"])
    with pytest.raises(BusFull, match=r"slow one has \d+ events in flight and \d+ queued"):
        bus.notify_many(Event(str(index), "a", b"x" * (1 << 20)) for index in range(40))
    shadow = inbox.get(10)
    assert shadow is not None
    inbox.complete(shadow)
    bus.notify(Event("fits again", "a", b"x" * (1 << 20)))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": "", "topic": "a", "data": 1}, "needs an id"),
        ({"id": None, "topic": "a", "data": 1}, "needs an id"),
        ({"id": "1", "topic": "", "data": 1}, "needs a topic"),
        ({"id": "1", "topic": "a", "data": 1, "ttl": 5}, "counts from occurred_at"),
    ],
)
def test_incomplete_events(fields: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Event(**fields)  # type: ignore[arg-type]


def test_a_closed_handle(bus: EventBus) -> None:
    bus.topics()
    bus.close()
    bus.close()
    with pytest.raises(BusClosed, match="open another EventBus"):
        bus.notify(Event("1", "a", 1))


def test_marking_what_one_is_not_subscribed_to(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.inbox("of b", ["b"])
    shadow = bus.notify(Event("1", "a", 1))
    with pytest.raises(NotSubscribed, match="nobody is not subscribed"):
        bus.mark_as_completed("nobody", shadow)
    with pytest.raises(NotSubscribed, match="of b is not subscribed to 'a'"):
        bus.mark_as_completed("of b", shadow)
    assert inbox.get(10) == shadow


def test_the_same_id_twice_is_two_events(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([Event("1", "a", "first"), Event("1", "a", "second")])
    assert bus.fetch_event_data(("a", "1")) == "second"
    shadows = inbox.get_many(2, 10)
    assert [bus.fetch_event_data(shadow) for shadow in shadows] == ["first", "second"]


def test_a_manager_that_cannot_start_says_why(make_bus: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"memory_bytes_max=100 is"):
        make_bus(memory_bytes_max=100)
    bus = make_bus()
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONHOME", "/nonexistent")
        with pytest.raises(ManagerLost, match=r"the end of its log(?s:.*)encodings"):
            bus.topics()
    assert bus.topics() == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x" * 65, ".hidden"])
def test_bad_bus_name(name: str) -> None:
    with pytest.raises(UsageError, match="bus name"):
        EventBus(name)


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="EVENTBUS_MP_ORPHAN_GRACE_S='soon'"):
        BusConfig.from_environment({"EVENTBUS_MP_ORPHAN_GRACE_S": "soon"})
    with pytest.raises(UsageError, match="time_unit='week'"):
        BusConfig(time_unit="week")


def test_bad_pools(bus: EventBus) -> None:
    with pytest.raises(UsageError, match="at least one process"):
        WorkerPool(bus, 0)
    with pytest.raises(UsageError, match="start_method 'magic'"):
        WorkerPool(bus, start_method="magic")
    with pytest.raises(InvalidPattern, match="'\\['"):
        WorkerPool(bus, 1).on("[")(print)
    pool = WorkerPool(bus, 1)
    pool.on("a", name="one")(print)
    with pytest.raises(UsageError, match="already has a handler of subscriber 'one'"):
        pool.on("b", name="one")(print)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda bus: bus.drain(5), "Drain: pattern=5 is a int; give a str"),
        (lambda bus: bus.drain(["a"]), "pattern=.'a'. is a list"),
        (lambda bus: bus.drain("\udcff"), "Drain: it cannot travel"),
        (lambda bus: bus.subscribers(5), "topic=5 is a int; give a str or None"),
        (lambda bus: bus.watchers(5), "topic=5 is a int"),
        (lambda bus: bus.fetch_event((5, "1")), "topic=5 is a int"),
        (lambda bus: bus.inbox(5, ["a"]), "a subscriber's name is a text .*, not 5"),
        (lambda bus: bus.inbox("", ["a"]), "of one character or more, not ''"),
        (lambda bus: bus.on("a", name="")(print), "of one character or more, not ''"),
        (lambda bus: bus.inbox("one", [f"(?#{'x' * (1 << 20)})"]), "Subscribe: it has 1048... bytes, over 1048576"),
        (lambda bus: bus.inbox("one", None), "a list of regular expressions, not None"),
        (lambda bus: bus.inbox("one", ["a"], credit=True), "credit=True: give a number"),
        (lambda bus: bus.on("a", retries=-1)(print), "retries=-1: give a whole number"),
        (lambda bus: bus.on("a", retries="2")(print), "retries='2': give a whole number"),
        (lambda bus: WorkerPool(bus, 1).on("a", retries=-1)(print), "retries=-1: give a whole number"),
        (lambda bus: bus.drain(timeout_s="5"), "timeout_s='5': give seconds"),
        (lambda bus: bus.drain(timeout_s=float("nan")), "timeout_s=nan: give seconds"),
        (lambda bus: bus.notify_and_wait(Event("1", "a", 1), timeout_s=[5]), "timeout_s=.5.: give seconds"),
        (lambda bus: bus.notify_and_wait(Event("1", "a", 1), timeout_s=10**400), "timeout_s=1000.*: give seconds"),
        (lambda bus: bus.unregister_topic([]), r"topic \[\] is a list, not a str"),
        (lambda bus: bus.dead_letters(limit="x"), r"dead_letters\(limit='x'\): give a whole number"),
        (lambda bus: bus.mark_many("one", 5), r"mark_many\(5\): give a list of shadows"),
        (lambda bus: bus.mark_many("one", [], outcome=[]), r"mark_many\(outcome=\[\]\): give 'completed' or 'skipped'"),
        (lambda bus: bus.history(kind=[]), r"history\(kind=\[\]\): there is no such kind"),
        (lambda bus: bus.history(before=5), r"history\(before=5\): give the `before` of the page before"),
        (lambda bus: EventBus("test", instruments=None), "instruments=None: give a list"),
        (lambda bus: EventBus("test", config=5), "config=5 is not a BusConfig"),
        (lambda bus: EventBus("test", np.array(3)), r"topics=array\(3\) is not a sequence"),
        (lambda bus: bus.notify_many(np.array(3)), r"notify_many\(array\(3\)\): give a list"),
        (lambda bus: bus.drain(timeout_s=True), "timeout_s=True: give seconds"),
        (lambda bus: bus.history(limit=1.5), r"history\(limit=1.5\): give a whole number"),
        (lambda bus: EventBus("test", strict="no"), "strict='no' is not True or False"),
        (lambda bus: EventBus("test", run_dir=b"/tmp/x"), r"BusConfig\.run_dir=b'/tmp/x' is not a path"),
        (lambda bus: EventBus("test", run_dir="\ud800"), "is not a path"),
        (lambda bus: bus.notify_many(Event("1", "a", 1)), r"notify_many\(Event\(.*\): give a list of events"),
        (lambda bus: bus.inbox("one", ["a"], credit=2**64), "Subscribe: it cannot travel"),
        (
            lambda bus: bus.subscribe((print, WITHIN_ITSELF), ["a"]),
            "config cannot .* nested too deeply",
        ),
        (lambda bus: bus.notify_many(None), r"notify_many\(None\): give a list of events"),
        (lambda bus: bus.loan("a", True), "True.: the size is a number of bytes"),
        (lambda bus: bus.loan("a", shape=(True, 2), dtype="u1"), "a shape is whole numbers"),
        (lambda bus: bus.loan("a", shape=(0, 1 << 63), dtype="u1"), "shape=.0, 9.*imension"),
        (lambda bus: bus.loan("a", shape=(1,) * 70, dtype="u1"), "shape=.1, .*imension"),
        (lambda bus: EventBus("test", "topic"), "topics='topic' is not a sequence of topics; write .'topic'. for one"),
        (lambda bus: EventBus("test", None), "topics=None is not a sequence"),
        (lambda bus: EventBus("test", config=BusConfig(topics=5)), r"BusConfig\.topics=5 is not a sequence"),
        (lambda bus: EventBus("test", run_dir=5), r"BusConfig\.run_dir=5 is not a path"),
        (lambda bus: EventBus("test", run_dir="a\0b"), "is not a path"),
        (lambda bus: WorkerPool(bus, "2"), "processes='2'.: a pool needs"),
        (lambda bus: WorkerPool(bus, max_events=1.5), "max_events=1.5.: give a whole number"),
        (lambda bus: bus.notify("a"), "'a' is a str; give an Event"),
        (lambda bus: bus.notify_many([("a", "1")]), "is a tuple; give an Event"),
    ],
)
def test_a_wrong_argument_is_the_caller_s_fault_and_costs_nothing(
    bus: EventBus, call: Callable[[Any], object], text: str
) -> None:
    """The manager closes the link of who sends such things."""
    bus.inbox("witness", ["a"])
    with pytest.raises(UsageError, match=text):
        call(bus)
    assert [subscriber.name for subscriber in bus.subscribers()] == ["witness"]
    assert nothing_is_stored(bus)
