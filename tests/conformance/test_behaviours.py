"""What the original event_bus does, one test each, under the original's names for it.

It is also what every kind of bus has to do: each test runs on all of them (conftest.py).
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventSource, UsageError, Watcher, unique_id
from eventbus_mp.statistics import SubscriberKey
from eventbus_mp.testing import TestBus
from tests.conformance.plain import Plain

Make = Callable[..., EventBus]


def source_of(bus: EventBus | Plain, topic: str, **settings: Any) -> Any:
    """A source of events, of the kind that belongs to the bus."""
    return bus.source(topic, **settings) if isinstance(bus, Plain) else EventSource(bus, topic, **settings)


class Recorder:
    """A listener that keeps the shadows and leaves them unsettled."""

    def __init__(self) -> None:
        self.shadows: list[Any] = []

    def process(self, *shadow_and_config: Any) -> None:
        self.shadows.append(shadow_and_config)


class Raises:
    def process(self, shadow: Any) -> None:
        raise RuntimeError("bad luck")


def event(topic: str = "a", event_id: str | int = "1", **fields: Any) -> Event:
    return Event(event_id, topic, {"value": event_id}, **fields)


def keys(*names: str) -> tuple[SubscriberKey, ...]:
    return tuple(SubscriberKey(name) for name in names)


# --- topics ---


def test_register_topic_twice(bus: EventBus) -> None:
    assert bus.register_topic("new") is True
    assert bus.register_topic("new") is False
    assert bus.topics() == ["a", "b", "new"]


def test_unregister_an_unknown_topic(bus: EventBus) -> None:
    assert bus.unregister_topic("unknown") is False
    assert bus.topics() == ["a", "b"]


def test_unregister_topic_drops_its_events(bus: EventBus) -> None:
    with bus.inbox("keeper", [".*"]) as inbox:
        shadow = bus.notify(event())
        assert inbox.get(10) == shadow
        assert bus.unregister_topic("a") is True
        assert not bus.topic_exists("a")
        assert bus.fetch_event(("a", "1")) is None


def test_topics_from_config(make_bus: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_MP_TOPICS", "one, two")
    assert make_bus().topics() == ["one", "two"]


# --- subscriptions ---


def test_patterns_match_as_prefixes(bus: EventBus) -> None:
    for topic in ("user_created", "user_deleted", "superuser_created"):
        bus.register_topic(topic)
    bus.subscribe(Recorder(), ["user_"])
    name = bus.subscribers("user_created")[0].name
    assert [item.name for item in bus.subscribers("user_deleted")] == [name]
    assert bus.subscribers("superuser_created") == []


def test_subscribing_again_replaces_the_patterns(bus: EventBus) -> None:
    listener = Recorder()
    bus.subscribe(listener, ["a"])
    bus.subscribe(listener, ["b$"])
    assert bus.subscribed(listener, ["b$"])
    assert not bus.subscribed(listener, ["a"])
    assert bus.subscribers("a") == []
    assert len(bus.subscribers("b")) == 1


def test_one_listener_with_two_configs_is_two_subscribers(bus: EventBus) -> None:
    listener = Recorder()
    bus.subscribe((listener, {"region": "eu"}), ["a"])
    bus.subscribe((listener, {"region": "us"}), ["a"])
    assert [item.config for item in bus.subscribers("a")] == [{"region": "eu"}, {"region": "us"}]
    shadow = bus.notify(event())
    for region in ("eu", "us"):
        bus.mark_as_completed((listener, {"region": region}), shadow)
    bus.drain(timeout_s=10)
    if isinstance(bus, TestBus):
        bus.deliver_all()
    assert [config for _, config in listener.shadows] == [{"region": "eu"}, {"region": "us"}]


def test_unsubscribe(bus: EventBus) -> None:
    listener = Recorder()
    bus.subscribe(listener, ["a"])
    assert bus.unsubscribe(listener) is True
    assert bus.unsubscribe(listener) is False
    assert bus.subscribers() == []


def test_subscribers_of_a_topic(bus: EventBus, kind: str) -> None:
    bus.inbox("of a", ["a"])
    bus.inbox("of both", [".*"])
    assert [item.name for item in bus.subscribers("a")] == ["of a", "of both"]
    assert [item.name for item in bus.subscribers("b")] == ["of both"]
    made_up = {"one thread": 1001, "asyncio, one thread": 1002}  # The pids of processes that are played.
    assert bus.subscribers("a")[0].pids == (made_up.get(kind, os.getpid()),)


# --- events ---


def test_no_subscriber_is_a_warning_once_a_minute(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "eventbus_mp"):
        shadow = bus.notify(event())
        bus.notify(event(event_id="2"))
    assert [record.getMessage() for record in caplog.records if "'a' has no subscriber" in record.getMessage()]
    assert len(caplog.records) == 1
    assert bus.fetch_event(shadow) is None
    assert bus.statistics().memory_bytes_used == 0


def test_unknown_topic_is_a_warning(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "eventbus_mp"):
        bus.notify(event("unknown"))
    assert "'unknown' doesn't exist" in caplog.text


def test_fetching_what_is_not_there_gives_none(bus: EventBus) -> None:
    assert bus.fetch_event(("a", "missing")) is None
    assert bus.fetch_event_data(("a", "missing")) is None
    assert bus.watcher(("a", "missing")) is None


def test_complete(bus: EventBus) -> None:
    inbox, other = bus.inbox("one", ["a"]), bus.inbox("two", ["a"])
    shadow = bus.notify(event())
    assert inbox.get(10) == other.get(10) == ("a", "1")
    bus.mark_as_completed(inbox, shadow)
    assert bus.watcher(shadow) == Watcher(keys("one", "two"), keys("one"), ())
    bus.mark_as_completed(inbox, shadow)  # again: it changes nothing
    assert bus.watcher(shadow) == Watcher(keys("one", "two"), keys("one"), ())
    bus.mark_as_completed(other, shadow)
    assert bus.watcher(shadow) is None


def test_skip(bus: EventBus) -> None:
    inbox, other = bus.inbox("one", ["a"]), bus.inbox("two", ["a"])
    shadow = bus.notify(event())
    assert inbox.get(10) == other.get(10) == shadow
    bus.mark_as_skipped(inbox, shadow)
    assert bus.watcher(shadow) == Watcher(keys("one", "two"), (), keys("one"))
    bus.mark_as_skipped(other, shadow)
    assert bus.watcher(shadow) is None


def test_completed_by_one_and_skipped_by_another(bus: EventBus) -> None:
    inbox, other = bus.inbox("one", ["a"]), bus.inbox("two", ["a"])
    third = bus.inbox("three", ["a"])
    shadow = bus.notify(event())
    assert inbox.get(10) == other.get(10) == third.get(10) == shadow
    bus.mark_as_completed(inbox, shadow)
    bus.mark_as_skipped(other, shadow)
    assert bus.watcher(shadow) == Watcher(keys("one", "two", "three"), keys("one"), keys("two"))
    assert bus.watchers("a") == {"1": bus.watcher(shadow)}
    bus.mark_as_completed(third, shadow)
    assert bus.watchers("a") == {}


def test_data_is_deleted_when_all_have_settled(bus: EventBus) -> None:
    inbox, other = bus.inbox("one", ["a"]), bus.inbox("two", ["a"])
    shadow = bus.notify(event())
    assert inbox.get(10) == other.get(10) == shadow
    inbox.complete(shadow)
    assert bus.fetch_event_data(shadow) == {"value": "1"}
    other.complete(shadow)
    assert bus.fetch_event(shadow) is None
    assert bus.statistics().events_unsettled == 0


def test_a_listener_that_raises_skips(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    bus.subscribe(Raises(), ["a"])
    watcher = bus.notify_and_wait(event(), timeout_s=10)
    assert watcher.skippers == watcher.subscribers
    assert "bad luck" in caplog.text
    (statistics,) = bus.statistics().subscribers
    assert statistics.recent_skips == (("1", "RuntimeError: bad luck"),)


def test_ids_are_texts_or_integers(bus: EventBus) -> None:
    """`id: String.t | integer()`: 7 and "7" are two events, for every method."""
    with bus.inbox("keeper", ["a"], credit=3) as inbox:
        bus.notify_many([event(event_id=event_id, transaction_id=event_id) for event_id in (7, "7", -(1 << 63))])
        shadows = [inbox.get(10) for _ in range(3)]
        assert [repr(shadow) for shadow in shadows] == [
            "EventShadow('a', 7)",
            "EventShadow('a', '7')",
            "EventShadow('a', -9223372036854775808)",
        ]
        fetched = [bus.fetch_event(("a", event_id)) for event_id in (7, "7")]
        assert [(item.id, item.transaction_id) for item in fetched if item is not None] == [(7, 7), ("7", "7")]
        assert set(bus.watchers("a")) == {7, "7", -(1 << 63)}
        bus.mark_as_completed(inbox.key, ("a", 7))
        assert (bus.watcher(("a", 7)), bus.watcher(("a", "7"))) == (None, Watcher(keys("keeper"), (), ()))
        assert bus.fetch_event(("a", 7)) is None
        assert bus.fetch_event(("a", "7")) is not None
        inbox.skip(shadows[2], "no use")
        bus.mark_as_skipped(inbox.key, ("a", "7"))
        assert bus.statistics().subscribers[0].recent_skips[-1] == (-(1 << 63), "no use")


@pytest.mark.parametrize("event_id", [7.0, True, None, b"7"])
def test_what_is_no_id_is_refused(bus: EventBus, event_id: Any) -> None:
    with pytest.raises(UsageError, match="an event's id is a str or an int of 64 bits, not"):
        bus.fetch_event(("a", event_id))


def test_a_block_may_have_an_integer_as_id(bus: EventBus) -> None:
    got = source_of(bus, "a").build(1, id=0, headers={"trace": "x"})
    assert (got.id, got.transaction_id, got.headers) == (0, 0, {"trace": "x"})


def test_headers_and_arrays_pass_through_a_forwarder(bus: EventBus) -> None:
    """A stage that sends on what it fetched: its bytes are copied as they are, from process to process."""
    with bus.inbox("first", ["a"]) as first, bus.inbox("second", ["b"]) as second:
        bus.notify(Event(7, "a", {"raw": memoryview(b"x" * 100_000)}, source="s", headers={"trace": "00-1"}))
        shadow = first.get(10)
        assert shadow is not None
        got = bus.fetch_event(shadow)
        assert got is not None
        bus.notify(Event.from_encoded(got.id, "b", got.encoded, headers=got.headers))
        first.complete(shadow)
        again = second.get(10)
        assert again is not None
        there = bus.fetch_event(again)
        assert there is not None
        assert (there.id, bytes(there.data["raw"]), there.headers) == (7, b"x" * 100_000, {"trace": "00-1"})
        second.complete(again)


# --- the block builder ---


def test_block_builder_defaults(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    source = source_of(bus, "a", source="signup", ttl=600_000_000)
    with source.notify() as block:
        block.data = "made"
    made = bus.fetch_event(inbox.get(10) or ("a", "nothing arrived"))
    assert made is not None
    assert (made.topic, made.data, made.source, made.ttl) == ("a", "made", "signup", 600_000_000)
    assert re.fullmatch("[0-9A-Za-z]{15,25}", made.id)
    assert made.transaction_id == made.id
    assert made.initialized_at is not None
    assert made.occurred_at is not None
    assert made.initialized_at <= made.occurred_at


def test_block_builder_explicit_values(bus: EventBus) -> None:
    source = source_of(bus, "a", source="default")
    fields = {"id": "7", "transaction_id": "t", "source": "mine", "ttl": 5, "initialized_at": 1, "occurred_at": 3}
    built = source.build("data", topic="b", **fields)
    assert (built.topic, built.data) == ("b", "data")
    assert {name: getattr(built, name) for name in fields} == fields


def test_errors_go_to_the_error_topic(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["b"])
    source = source_of(bus, "a", error_topic="b")
    with pytest.raises(ZeroDivisionError), source.notify(id="7"):
        _ = 1 / 0
    erred = bus.fetch_event(inbox.get(10) or ("b", "nothing arrived"))
    assert erred is not None
    assert (erred.id, erred.data) == ("7", {"type": "ZeroDivisionError", "message": "division by zero"})
    assert source.build(lambda: 1 / 0).topic == "b"


def test_every_call_of_what_emits_is_an_event(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    double = source_of(bus, "a").emits(lambda number: 2 * number)
    assert double(21) == 42
    assert bus.fetch_event_data(inbox.get(10) or ("a", "nothing arrived")) == 42


def test_ids_are_unique_over_processes() -> None:
    code = "from eventbus_mp import unique_id; print('\\n'.join(unique_id() for _ in range(2000)))"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ids = [line for run in runs for line in run.communicate(timeout=60)[0].split()]
    assert len(set(ids)) == len(ids) == 8000
    assert unique_id() not in ids


def test_time_units(make_bus: Make) -> None:
    digits = {}
    for unit in ("second", "millisecond", "microsecond", "nanosecond"):
        source = source_of(make_bus(time_unit=unit), "a")
        built = source.build("data")
        digits[unit] = len(str(built.occurred_at))
    assert digits == {"second": 10, "millisecond": 13, "microsecond": 16, "nanosecond": 19}


def test_duration() -> None:
    assert event(initialized_at=100, occurred_at=130).duration == 30
    assert event(initialized_at=100).duration == 0
    assert event().duration == 0
