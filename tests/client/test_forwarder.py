"""Forwarders: events as they lie in memory, settled by their numbers, and given back uncounted."""

import select
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, Forwarder, RawEvent, SubscriberKey, UsageError
from eventbus_mp.client import sessions
from eventbus_mp.geometry import PAYLOAD_ALIGNMENT
from eventbus_mp.testing.inprocess import InProcessBus
from tests.helpers import publish

Handle = Callable[..., EventBus]
BILL = SubscriberKey("bill", host="B")


def statistics(bus: EventBus) -> tuple[int, int, int, int]:
    (found,) = bus.statistics().subscribers
    return found.queued, found.sent, found.completed, found.skipped


def numbers(raws: list[RawEvent]) -> list[int]:
    return [raw.sequence for raw in raws]


def test_it_gets_blocks_that_are_events(handle: Handle) -> None:
    bus = handle()
    forwarder = bus.forwarder(BILL, ["a", "b"])
    now = time.time_ns() // 1_000
    bus.notify(Event("one", "a", {"n": 1}, transaction_id="t"))
    bus.notify(Event("two", "b", bytes(100_000), occurred_at=now, ttl=1 << 40))
    small, large = forwarder.take(10)
    assert [small.topic, large.topic] == ["a", "b"]
    assert [type(small.payload), type(large.payload)] == [bytes, memoryview]
    assert [small.deadline_ns > 0, large.deadline_ns > 0] == [False, True]
    assert [len(raw.payload) % PAYLOAD_ALIGNMENT for raw in (small, large)] == [0, 0]
    event = small.event()
    assert (event.id, event.data, event.transaction_id) == ("one", {"n": 1}, "t")
    forwarder.settle([(small.sequence, 1), (large.sequence, 1)])
    assert large.payload[-100:] == bytes(100)  # It stays as long as it is looked at.
    assert statistics(bus) == (0, 0, 2, 0)


def test_it_is_a_subscriber_of_another_host(handle: Handle) -> None:
    bus = handle()
    bus.forwarder(BILL, ["a"])
    (found,) = bus.subscribers()
    assert (found.key, found.key.text, found.patterns, found.scope) == (BILL, "bill@B", ("a",), "host")
    assert (len(found.pids), found.home_pids) == (1, ())
    assert bus.unsubscribe(BILL)
    assert bus.subscribers() == []


def test_all_is_there_at_once_and_taken_as_asked(handle: Handle) -> None:
    bus = handle()
    forwarder = bus.forwarder(BILL, ["a"])
    publish(bus, 300)
    first = forwarder.take(100)
    assert len(first) == 100
    assert statistics(bus)[:2] == (0, 300)
    assert numbers(forwarder.unsettled()) == numbers(first)
    rest = forwarder.take(1_000)
    assert len(rest) == 200
    assert forwarder.unsettled() == first + rest
    forwarder.settle([(first[0].sequence, 300)], "skipped", "no use")
    assert forwarder.unsettled() == []
    assert statistics(bus) == (0, 0, 0, 300)
    assert bus.statistics().subscribers[0].reasons == {"no use": 300}


def test_a_credit_bounds_what_is_unsettled(handle: Handle) -> None:
    bus = handle()
    forwarder = bus.forwarder(BILL, ["a"], credit=8)
    publish(bus, 20)
    first = forwarder.take(100)
    assert len(first) == 8
    assert forwarder.take(100, 0) == []
    forwarder.settle([(first[0].sequence, 3)])
    assert len(forwarder.take(100, 1)) == 3


def test_what_was_settled_by_number_before_it_came_is_not_taken(handle: Handle) -> None:
    bus = handle()
    before = bus.forwarder(BILL, ["a"])
    shadows = publish(bus, 4)
    assert len(before.take(2)) == 2
    before.close(keep=True)
    forwarder = handle().forwarder(BILL, ["a"], credit=2)
    first = shadows[0]._place.sequence  # type: ignore[union-attr]
    forwarder.settle([(first, 1), (first + 2, 1)])
    forwarder.settle([(first, 4)][:0])
    assert numbers(forwarder.take(10)) == [first + 1]
    assert numbers(forwarder.take(10, 1)) == [first + 3]
    forwarder.settle([(first, 4)])
    assert statistics(bus) == (0, 0, 4, 0)


def test_who_shares_a_group_gets_a_share_of_what_is_published_here(handle: Handle) -> None:
    bus, worker = handle(), handle()
    group = SubscriberKey("group")
    inbox = worker.inbox("group", ["a"], credit=2, scope="cluster")
    forwarder = bus.forwarder(group, ["a"], credit=2)
    (found,) = bus.subscribers()
    assert (found.key, found.scope, len(found.pids), len(found.home_pids)) == (group, "cluster", 2, 1)
    publish(bus, 4)
    assert len(forwarder.take(10)) == 2
    assert len(inbox.get_many(10)) == 2


def test_a_process_does_not_forward_what_it_handles(handle: Handle) -> None:
    bus = handle()
    bus.inbox("group", ["a"], scope="cluster")
    with pytest.raises(UsageError, match="to handle its events"):
        bus.forwarder(SubscriberKey("group"), ["a"])
    other = handle()
    other.forwarder(SubscriberKey("group"), ["a"])
    with pytest.raises(UsageError, match="to forward its events"):
        other.inbox("group", ["a"])


def test_nonsense_is_refused(handle: Handle) -> None:
    bus = handle()
    for key in ("bill", ("bill", None, "B"), SubscriberKey(""), SubscriberKey("bill", host="")):
        with pytest.raises(UsageError):
            bus.forwarder(key, ["a"])  # type: ignore[arg-type]
    forwarder = bus.forwarder(BILL, ["a"])
    for wrong in ([1], [(1, 0)], [(-1, 1)], [(1, 1, 1)], [("1", 1)], 7, [(1, 1 << 40)]):
        with pytest.raises(UsageError):
            forwarder.settle(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="failed"):
        forwarder.settle([(1, 1)], "failed")
    with pytest.raises(UsageError):
        forwarder.take(0)
    forwarder.close()
    for call in (forwarder.unsettled, lambda: forwarder.take(1), lambda: forwarder.settle([(1, 1)]), forwarder.fileno):
        with pytest.raises(BusClosed):
            call()


def test_a_process_that_dies_accuses_nothing(handle: Handle, world: InProcessBus) -> None:
    bus = handle()
    publish_to = bus.forwarder(BILL, ["a"])
    shadows = publish(bus, 3)
    publish_to.close(keep=True)
    for _ in range(5):
        dying = world.handle(("a",))
        taken = dying.forwarder(BILL, ["a"]).take(10)
        assert len(taken) == 3
        session = dying._session
        assert session is not None
        world.kill(session)
        sessions.let_go(session)
    forwarder = bus.forwarder(BILL, ["a"])
    assert len(forwarder.take(10)) == 3
    assert not [line for line in bus.story(shadows[0]) if "crashed" in line]
    forwarder.settle([(taken[0].sequence, 3)])
    assert statistics(bus) == (0, 0, 3, 0)


def test_its_descriptor_says_when_there_is_something(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"])
    forwarder: Forwarder = bus.forwarder(BILL, ["a"])
    fd = forwarder.fileno()
    assert forwarder.take(10, 0) == []
    assert not select.select([fd], [], [], 0)[0]
    publish(bus, 1)
    assert select.select([fd], [], [], 20)[0]
    (raw,) = forwarder.take(10)
    assert not select.select([fd], [], [], 0)[0]
    forwarder.settle([(raw.sequence, 1)])
    bus.drain(timeout_s=20)


def test_it_comes_back_with_its_handle(make_bus: Callable[..., EventBus]) -> None:
    bus: Any = make_bus(topics=["a"])
    forwarder = bus.forwarder(BILL, ["a"])
    publish(bus, 1)
    (raw,) = forwarder.take(10)
    other = make_bus(topics=["a"])
    other.shutdown()
    again = make_bus(topics=["a"])
    again.topics()
    forwarder.settle([(raw.sequence, 1)])
    (found,) = again.subscribers()
    assert found.key == BILL
    publish(again, 2)
    assert len(forwarder.take(10)) >= 1
