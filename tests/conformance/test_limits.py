"""What is followed, and what is bounded, on every kind of bus (conftest.py)."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, BusFull
from tests.conformance.test_calls import TIMEOUT_S, event, numbers

Make = Callable[..., Any]


def test_following_what_is_registered(bus: Any) -> None:
    bus.topics()
    life = bus.life
    with bus.changes() as changes:
        kinds = [change.kind for change in changes.get(TIMEOUT_S)]
        assert kinds == ["topic_registered", "topic_registered", "complete"]
        assert changes.get(0) == []
        bus.register_topic("c")
        (change,) = changes.get(TIMEOUT_S)
        assert (change.kind, change.topic) == ("topic_registered", "c")
        inbox = bus.inbox("one", ["a"])
        bus.unsubscribe(inbox)
        followed = iter(changes)
        assert [next(followed).subscriber.key for _ in range(2)] == [inbox.key] * 2
    with pytest.raises(BusClosed, match="these changes were closed"):
        changes.get(0)
    assert bus.life == life == bus.snapshot().manager.incarnation


def test_a_backlog_that_is_full(make_bus: Make) -> None:
    bus = make_bus(topics=["a"])
    slow = bus.inbox("slow", ["a"], backlog_max=4)
    with pytest.raises(BusFull, match="subscriber 'slow' has") as caught:
        bus.notify_many([event(number) for number in range(20)], timeout_s=0.05)
    published = numbers(caught.value.published)
    assert published == [str(number) for number in range(len(published))]
    assert 4 <= len(published) <= 6
    with pytest.raises(BusFull, match=r"no room for events of topic 'a' within 0\.05 s"):
        bus.notify(event(20), timeout_s=0.05)
    taken = slow.get_many(20, TIMEOUT_S)
    assert numbers(taken) == published
    slow.complete_many(taken)
    bus.notify(event(21))
    slow.complete(slow.get(TIMEOUT_S))
    bus.inbox("slow", ["a"], backlog_max=1, when_full="skip")
    bus.notify_many([event(number) for number in range(22, 25)])
    assert numbers(slow.get_many(20, TIMEOUT_S)) == ["22"]
    assert len(bus.notify_and_wait(event(25), timeout_s=TIMEOUT_S).skippers) == 1
    bus.unsubscribe(slow)
