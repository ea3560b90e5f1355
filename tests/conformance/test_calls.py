"""What each public call of a bus and of an inbox does, on every kind of bus (conftest.py)."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import (
    BusClosed,
    BusFull,
    Changes,
    Event,
    EventBus,
    Inbox,
    Instrument,
    NotSubscribed,
    Retry,
    Skip,
    SubscriberKey,
    UnknownTopic,
    UsageError,
    WaitTimeout,
    Watcher,
)

Make = Callable[..., Any]
TIMEOUT_S = 30.0


def event(number: int, topic: str = "a", data: Any = None, **fields: Any) -> Event:
    return Event(str(number), topic, number if data is None else data, **fields)


def numbers(shadows: Any) -> list[str]:
    return [shadow.id for shadow in shadows]


# --- publishing ---


def test_many_events_keep_their_order(bus: Any) -> None:
    inbox = bus.inbox("one", ["a"])
    assert numbers(bus.notify_many([event(number) for number in range(5)])) == list("01234")
    bus.notify_many(event(number) for number in range(5, 8))
    taken = inbox.get_many(8, TIMEOUT_S)
    assert numbers(taken) == list("01234567")
    inbox.complete_many(taken)


def test_waiting_for_an_event(bus: Any) -> None:
    assert bus.notify_and_wait(event(0)) == Watcher()  # Nobody is subscribed.
    inbox = bus.inbox("one", ["a"])
    with pytest.raises(WaitTimeout, match=r"event '1' of topic 'a' is not settled after 0\.05 s"):
        bus.notify_and_wait(event(1), timeout_s=0.05)
    inbox.complete(inbox.get(TIMEOUT_S))


def test_draining(bus: Any) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(event(1))
    bus.drain("b", timeout_s=TIMEOUT_S)
    with pytest.raises(WaitTimeout, match=r"is not drained after 0\.05 s"):
        bus.drain(timeout_s=0.05)
    inbox.complete(inbox.get(TIMEOUT_S))
    bus.drain(timeout_s=TIMEOUT_S)


def test_memory_that_is_full(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=16 << 20)
    inbox = bus.inbox("one", ["a"])
    with pytest.raises(BusFull) as caught:
        bus.notify_many([event(number, data=b"x" * (1 << 20)) for number in range(100)], timeout_s=0.05)
    assert 0 < len(caught.value.published) < 100
    with pytest.raises(BusFull, match=r"bytes of the bus's memory became free within 0\.05 s"):
        bus.notify(event(100, data=b"x" * (1 << 20)), timeout_s=0.05)
    while (shadow := inbox.get(0)) is not None:
        inbox.complete(shadow)


def test_a_loan(bus: Any) -> None:
    inbox = bus.inbox("one", ["a"])
    with bus.loan("a", 5, id="1") as loan:
        loan.buffer[:] = b"hello"
    shadow = inbox.get(TIMEOUT_S)
    assert shadow == loan.shadow == ("a", "1")
    assert bytes(bus.fetch_event_data(shadow)) == b"hello"
    with pytest.raises(LookupError), bus.loan("a", 5):
        raise LookupError
    assert inbox.get(0) is None
    inbox.complete(shadow)


def test_an_event_that_is_over_is_not_delivered(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], time_unit="millisecond")
    inbox = bus.inbox("one", ["a"])
    bus.notify_many([event(1, occurred_at=1, ttl=1), event(2)])
    shadow = inbox.get(TIMEOUT_S)
    assert shadow.id == "2"
    inbox.complete(shadow)
    bus.drain(timeout_s=TIMEOUT_S)
    assert bus.statistics().subscribers[0].skipped == 1


def test_a_strict_bus(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], strict=True)
    with pytest.raises(UnknownTopic, match="topic 'nothing' is not registered"):
        bus.notify(event(1, topic="nothing"))


# --- handlers ---


def test_how_a_handler_ends_settles_the_event(bus: Any) -> None:
    calls: list[str] = []

    def handle(event: Event) -> None:
        calls.append(event.id)
        if event.id == "1":
            raise Skip("no")
        if event.id == "2" and calls.count("2") == 1:
            raise Retry
        if event.id == "3":
            raise ValueError("bad luck")

    assert bus.on("a", name="one", retries=1)(handle) is handle
    watchers = [bus.notify_and_wait(event(number), timeout_s=TIMEOUT_S) for number in range(4)]
    assert [(len(each.completers), len(each.skippers)) for each in watchers] == [(1, 0), (0, 1), (1, 0), (0, 1)]
    assert calls == ["0", "1", "2", "2", "3", "3"]
    found = bus.statistics().subscribers[0]
    assert found.recent_skips == (("1", "no"), ("3", "ValueError: bad luck"))


def test_a_handler_of_batches(bus: Any) -> None:
    sizes: list[int] = []

    @bus.on("a", name="one", batch=3, within_s=0.01)  # type: ignore[untyped-decorator]
    def handle(events: list[Event]) -> list[Any]:
        sizes.append(len(events))
        return [Skip("no") if event.id == "1" else None for event in events]

    bus.notify_many([event(number) for number in range(7)])
    bus.drain(timeout_s=TIMEOUT_S)
    found = bus.statistics().subscribers[0]
    assert (sum(sizes), max(sizes) <= 3, found.completed, found.skipped) == (7, True, 6, 1)


def test_a_listener_with_a_config_settles_by_itself(bus: Any) -> None:
    calls: list[Any] = []

    def listen(shadow: Any, config: Any) -> None:
        calls.append((shadow.id, config))

    key = bus.subscribe((listen, {"n": 1}), ["a"])
    assert key.config == {"n": 1}
    assert bus.subscribed((listen, {"n": 1}), ["a"])
    shadow = bus.notify(event(1))
    bus.mark_many(key, [shadow], "skipped", reason="no")
    bus.drain(timeout_s=TIMEOUT_S)
    assert bus.statistics().subscribers[0].recent_skips == (("1", "no"),)
    assert bus.unsubscribe(key)


def test_what_cannot_be_a_handler(bus: Any) -> None:
    with pytest.raises(UsageError):
        bus.on("a")(5)
    with pytest.raises(UsageError):
        bus.on()
    with pytest.raises(UsageError, match="pattern"):
        bus.subscribe(print, ["("])
    with pytest.raises(UsageError):
        bus.inbox("", ["a"])
    assert bus.subscribers() == []


# --- inboxes ---


def test_taking_and_settling(bus: Any) -> None:
    with bus.inbox("one", ["a"]) as inbox:
        bus.notify_many([event(number) for number in range(6)])
        taken = inbox.get_many(4, TIMEOUT_S)
        pairs = inbox.events(2, TIMEOUT_S)
        assert numbers(taken) == list("0123")
        assert [(shadow.id, found.data) for shadow, found in pairs] == [("4", 4), ("5", 5)]
        inbox.complete(taken[0])
        inbox.skip(taken[1], "no")
        inbox.complete_many(taken[2:])
        inbox.skip_many([shadow for shadow, _ in pairs], "all")
        found = bus.statistics().subscribers[0]
        assert (found.completed, found.recent_skips) == (3, (("1", "no"), ("4", "all"), ("5", "all")))
        assert inbox.get(0) is None
    with pytest.raises(BusClosed, match="inbox 'one' was closed"):
        inbox.get(0)
    assert list(inbox) == []


def test_handing_a_shadow_back(bus: Any) -> None:
    with bus.inbox("one", ["a"]) as inbox:
        bus.notify(event(1))
        shadow = inbox.get(TIMEOUT_S)
        assert inbox.attempt(shadow) == 1
        inbox.release(shadow)
        again = inbox.get(TIMEOUT_S)
        assert (again.id, inbox.attempt(again)) == ("1", 2)
        inbox.release(again, 0.01)
        third = inbox.get(TIMEOUT_S)
        assert (third.id, inbox.attempt(third)) == ("1", 3)
        inbox.complete(third)


def test_an_inbox_that_is_closed_hands_back(bus: Any) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(event(1))
    assert inbox.get(TIMEOUT_S).id == "1"
    inbox.close(keep=True)
    with bus.inbox("one", ["a"]) as again:
        again.complete(again.get(TIMEOUT_S))
        bus.drain(timeout_s=TIMEOUT_S)


def test_mistakes_at_an_inbox(bus: Any) -> None:
    with bus.inbox("one", ["a"]) as inbox:
        for call, argument in ((inbox.get_many, 0), (inbox.events, -1), (inbox.get, "soon")):
            with pytest.raises(UsageError):
                call(argument)
        with pytest.raises(NotSubscribed, match="was not taken from inbox 'one'"):
            inbox.complete(("a", "1"))
        with pytest.raises(NotSubscribed):
            bus.mark_as_completed("nobody", ("a", "1"))


# --- what there is to know ---


def test_an_event_is_explained_and_remembered(bus: Any) -> None:
    with bus.inbox("one", ["a"]) as inbox:
        shadow = bus.notify(event(1))
        assert inbox.get(TIMEOUT_S) == shadow
        explanation = bus.explain(shadow)
        assert [item.subscriber.name for item in explanation.deliveries] == ["one"]
        assert [item.id for item in bus.stuck(0)] == ["1"]
        assert bus.snapshot().events.unsettled == bus.statistics().events_unsettled == 1
        inbox.complete(shadow)
        bus.drain(timeout_s=TIMEOUT_S)
        assert bus.stuck(0) == []
        story = bus.story(("a", "1"))
        assert any("completed" in line for line in story)
        page = bus.history(topic="a", limit=100)
        assert {entry.kind for entry in page.entries} >= {"notified", "completed"}
        assert bus.explain(("a", "missing")) is None


def test_dead_letters_are_sent_again(make_bus: Make) -> None:
    bus = make_bus(topics=["a", "failed"], dead_letter_topic="failed")
    calls: list[str] = []

    @bus.on("a", name="one")  # type: ignore[untyped-decorator]
    def fail_once(event: Event) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise ValueError("bad luck")

    with bus.inbox("keeper", ["failed"]):
        bus.notify_and_wait(event(1), timeout_s=TIMEOUT_S)
        (letter,) = bus.dead_letters()
        assert (letter.subscriber.name, letter.reason) == ("one", "ValueError: bad luck")
        assert bus.redeliver(letter) == 1
        bus.drain(timeout_s=TIMEOUT_S)
        assert (calls, bus.dead_letters()) == (["1", "1"], [])


# --- the handle ---


class Counts(Instrument):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def before_notify(self, events: Any) -> None:
        self.seen += numbers(events)


def test_instruments(make_bus: Make, kind: str) -> None:
    first, second = Counts(), Counts()
    bus = make_bus(topics=["a"], instruments=[first])
    if kind != "one thread":  # That is connected from the beginning.
        bus.add_instrument(second)
        assert bus.instruments == (first, second)
    bus.notify(event(1))
    with pytest.raises(UsageError, match="is connected: add an instrument before"):
        bus.add_instrument(second)
    bus.remove_instrument(second)
    assert bus.instruments == (first,)
    assert first.seen == ["1"]
    assert second.seen == ([] if kind == "one thread" else ["1"])


def test_a_handle_that_only_looks(make_bus: Make, kind: str) -> None:
    if kind == "one thread":
        pytest.skip("a TestBus is made, not attached to; other handles of its name are, see tests/testing")
    bus = make_bus(topics=["a"])
    bus.topics()
    with bus.attach("test", config=bus.config) as observer:
        assert observer.topics() == ["a"]
        for call in (lambda: observer.notify(event(1)), lambda: observer.register_topic("b")):
            with pytest.raises(UsageError, match="is attached to bus 'test' and only looks"):
                call()


def test_a_type_that_is_registered(bus: Any) -> None:
    @bus.register_type  # type: ignore[untyped-decorator]
    @dataclass
    class Point:
        x: int

    with bus.inbox("one", ["a"]) as inbox:
        bus.notify(event(1, data=Point(7)))
        shadow = inbox.get(TIMEOUT_S)
        assert bus.fetch_event_data(shadow).x == 7
        inbox.complete(shadow)


def test_the_end_of_a_handle(make_bus: Make, kind: str) -> None:
    bus = make_bus(topics=["a"])
    lost: list[Any] = []
    assert bus.on_lost(lost.append) == lost.append
    assert bus.address.endswith("socket")
    bus.topics()
    assert bus.connected
    bus.close()
    bus.close()
    assert not bus.connected
    for call in (bus.topics, lambda: bus.notify(event(1)), lambda: bus.inbox("one", ["a"])):
        with pytest.raises(BusClosed, match="was closed; open another EventBus"):
            call()
    if kind != "one thread":
        other = make_bus()
        other.topics()
        other.shutdown()
    assert lost == []


def test_what_a_bridge_needs(make_bus: Make, kind: str) -> None:
    if kind not in ("processes", "one thread"):
        pytest.skip("receipts and forwarders are for threads")
    bus = make_bus(topics=["a"])
    with bus.receipts("sent") as receipts, bus.forwarder(SubscriberKey("bill", None, "b"), ["a"]) as forwarder:
        receipts.notify_many([event(1), event(2)])
        first, second = forwarder.take(10, 20)
        forwarder.settle([(first.sequence, 1), (second.sequence, 1)])
        tags = [tag for receipt in receipts.get(timeout_s=20) for tag in receipt.tags]
        assert len(tags) == 2
        receipts.confirm(tags)


# --- the suite ---


@pytest.mark.parametrize("owner", [EventBus, Inbox, Changes])
def test_the_suite_has_every_public_call(owner: type) -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    called = set(re.findall(r"\.(\w+)\(", text)) | set(re.findall(r"\.(\w+)\b", text))
    public = {name for name, _ in inspect.getmembers(owner) if not name.startswith("_")}
    assert public - called == (set() if owner is EventBus else {"fileno"})  # Those of `aio` need none.
