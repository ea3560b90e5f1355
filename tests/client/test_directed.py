"""Events for some subscribers only: `notify_many(only=...)`."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, SubscriberKey, UnknownTopic, UsageError
from eventbus_mp.geometry import DIRECTED_MAX

Handle = Callable[..., EventBus]


def ids(inbox: Any) -> list[Any]:
    return [shadow.id for shadow in inbox.get_many(100, 0)]


def events(*names: str, topic: str = "a") -> list[Event]:
    return [Event(name, topic, name) for name in names]


def test_only_they_get_them_and_what_follows_goes_to_all(handle: Handle) -> None:
    bus = handle()
    one, two, other = (bus.inbox(name, patterns) for name, patterns in (("1", ["a"]), ("2", ["b"]), ("3", ["a"])))
    shadows = bus.notify_many(events("x", "y"), only=[one.key, "2"])
    bus.notify_many(events("z"))
    assert [shadow.id for shadow in shadows] == ["x", "y"]
    assert (ids(one), ids(two), ids(other)) == (["x", "y", "z"], ["x", "y"], ["z"])


def test_a_topic_that_nobody_wants_reaches_them_all_the_same(handle: Handle) -> None:
    bus = handle()
    bus.register_topic("quiet")
    one = bus.inbox("1", ["a"])
    for name in ("x", "y"):
        bus.notify_many(events(name, topic="quiet"), only=[one])
    assert ids(one) == ["x", "y"]


def test_who_is_not_subscribed_gets_none(handle: Handle) -> None:
    bus = handle()
    one = bus.inbox("1", ["a"])
    (shadow,) = bus.notify_many(events("x"), only=[SubscriberKey("1", config=7), SubscriberKey("1", host="B")])
    assert bus.fetch_event(shadow) is None
    assert ids(one) == []
    assert bus.statistics().events_dropped == 1


def test_what_names_nobody_is_refused(handle: Handle) -> None:
    bus = handle()
    for only in ("bill", SubscriberKey("bill"), [], 7, [7], ["x"] * (DIRECTED_MAX + 1), [("x", lambda: 0)]):
        with pytest.raises(UsageError):
            bus.notify_many(events("x"), only=only)  # type: ignore[arg-type]


def test_a_topic_that_is_not_registered_is_dropped_or_refused(handle: Handle) -> None:
    bus = handle()
    one = bus.inbox("1", ["a"])
    bus.notify_many(events("x", topic="unknown"), only=[one])
    assert ids(one) == []
    with pytest.raises(UnknownTopic):
        handle(strict=True).notify_many(events("x", topic="unknown"), only=[one])


def test_the_direction_holds_for_the_rest_after_a_wait_for_memory(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"])
    one, other = bus.inbox("1", ["a"]), bus.inbox("2", ["a"])
    large = [Event(str(number), "a", bytes(1 << 20)) for number in range(40)]
    with pytest.raises(BusFull) as full:
        bus.notify_many(large, only=[one], timeout_s=0)
    assert 0 < len(full.value.published) < 40
    bus.notify_many(events("y"))
    assert ids(other) == ["y"]
    assert len(ids(one)) == len(full.value.published) + 1
