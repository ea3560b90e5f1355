"""Bounds on a subscriber's backlog: what is skipped, who waits, and for how long."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, NoSubscriber, UsageError
from eventbus_mp.testing.inprocess import InProcessBus
from tests.helpers import statistics_of, until

Make = Callable[..., EventBus]
WAIT_S = 30
FULL_REASON = "its backlog is full (3 events)"


def events(count: int, first: int = 0, data: Any = None) -> list[Event]:
    return [Event(str(number), "a", data) for number in range(first, first + count)]


def backlog_of(bus: EventBus, name: str = "slow") -> int:
    item = statistics_of(bus, name)
    return item.queued + item.sent


def unsettled(world: InProcessBus) -> int:
    (subscriber,) = world.core.state.registry.subscribers.values()
    assert subscriber.backlog is not None
    return subscriber.backlog.events


def notify_each(bus: EventBus, wanted: list[Event]) -> None:
    for event in wanted:
        bus.notify(event)


# --- skipped, in this thread ---


def test_what_comes_for_a_full_backlog_is_skipped(handle: Make) -> None:
    producer, consumer = handle(), handle()
    slow = consumer.inbox("slow", ["a"], backlog_max=3, when_full="skip")
    quick = consumer.inbox("quick", ["a"])
    producer.notify_many(events(10))
    assert [shadow.id for shadow in quick.get_many(20, 0)] == [str(number) for number in range(10)]
    assert backlog_of(producer) == 3
    assert statistics_of(producer, "slow").reasons == {FULL_REASON: 7}
    taken = slow.get_many(10, 0)
    assert [shadow.id for shadow in taken] == ["0", "1", "2"]
    producer.notify(Event("late", "a", 1))  # What a process holds counts as well.
    assert slow.get(0) is None
    slow.complete_many(taken)
    producer.notify(Event("again", "a", 1))
    shadow = slow.get(0)
    assert shadow
    assert shadow.id == "again"


def test_the_watcher_of_a_skipped_event_says_so(handle: Make) -> None:
    bus = handle()
    bus.inbox("slow", ["a"], backlog_max=1, when_full="skip")
    shadow = bus.notify(Event("1", "a", 1))
    watcher = bus.notify_and_wait(Event("2", "a", 2))
    assert watcher.skippers == watcher.subscribers
    bus.mark_as_completed("slow", shadow)
    bus.drain()
    assert FULL_REASON.replace("3 events", "1 events") in " ".join(bus.story(("a", "2")))


def test_a_bound_in_bytes(handle: Make) -> None:
    bus = handle()
    inbox = bus.inbox("slow", ["a"], backlog_bytes_max=10_000, when_full="skip")
    bus.notify_many([Event("large", "a", b"x" * 20_000), *events(4, data=b"x" * 4_000)])
    assert [shadow.id for shadow in inbox.get_many(9, 0)] == ["0", "1"]
    item = bus.snapshot().subscribers[0]
    assert (item.backlog_max, item.backlog_bytes_max, item.when_full) == (None, 10_000, "skip")
    assert item.backlog_bytes
    assert 8_000 < item.backlog_bytes <= 10_000
    assert item.skip_reasons == {"its backlog is full (10000 bytes)": 3}


def test_the_newest_subscription_has_the_word(handle: Make) -> None:
    bus = handle()
    bus.inbox("slow", ["a"])
    bus.notify_many(events(5))
    bus.inbox("slow", ["a"], backlog_max=3, when_full="skip")
    bus.notify_many(events(5))
    assert backlog_of(bus) == 5  # What it has stays.
    bus.inbox("slow", ["a"], backlog_max=7, when_full="skip")
    bus.notify_many(events(5))
    assert backlog_of(bus) == 7
    bus.inbox("slow", ["a"])
    bus.notify_many(events(5))
    assert backlog_of(bus) == 12


def test_dead_letters_are_bounded_as_well(handle: Make, world: InProcessBus) -> None:
    bus = handle(dead_letter_topic="b")
    world.core.state.config = world.core.state.config.__class__(dead_letter_topic="b", memory_bytes_max=16 << 20)
    letters = bus.inbox("letters", ["b"], backlog_max=2, when_full="skip")
    bus.on("a", name="failing")(lambda event: 1 / 0)
    bus.notify_many(events(5))
    world.run()
    assert len(letters.get_many(9, 0)) == 2
    assert statistics_of(bus, "letters").skipped == 3


def test_a_letter_is_not_sent_again_to_who_has_no_room(handle: Make, world: InProcessBus) -> None:
    bus = handle()
    world.core.state.config = world.core.state.config.__class__(dead_letter_topic="b", memory_bytes_max=16 << 20)
    bus.inbox("letters", ["b"])
    bus.on("a", name="failing", backlog_max=1, when_full="skip")(lambda event: 1 / 0)
    shadow = bus.notify(Event("1", "a", 1))
    world.run()
    assert len(bus.dead_letters()) == 1
    bus.unsubscribe("failing")
    inbox = bus.inbox("failing", ["a"], backlog_max=1, when_full="skip")
    bus.notify(Event("2", "a", 2))
    with pytest.raises(UsageError, match="failing failed, and its backlog of 1 events is full; redeliver when"):
        bus.redeliver(shadow)
    assert bus.redeliver() == 0
    inbox.complete(inbox.get(0))  # type: ignore[arg-type]
    assert bus.redeliver(shadow) == 1


# --- waiting, in this thread ---


def test_a_producer_waits_for_room_and_goes_on(handle: Make, world: InProcessBus) -> None:
    producer, consumer = handle(), handle()
    got: list[str] = []
    largest = 0

    @consumer.on("a", name="slow", backlog_max=8, credit=1)
    def slow(event: Event) -> None:
        nonlocal largest
        largest = max(largest, unsettled(world))
        got.append(str(event.id))

    notify_each(producer, events(100))
    producer.notify_many(events(100, 100))
    producer.drain()
    assert got == [str(number) for number in range(200)]
    assert largest <= 12


@pytest.mark.parametrize("many", [False, True])
def test_who_waits_in_vain_hears_for_whom(handle: Make, many: bool) -> None:
    producer, consumer = handle(notify_timeout_s=5), handle()
    consumer.inbox("slow", ["a"], backlog_max=10)
    producer.notify(Event("first", "a", 1))
    text = (
        r"no room for events of topic 'a' within 5 s: subscriber 'slow' has \d+ unsettled events, and may have 10 "
        r"\(backlog_max\)\. Settle events faster, raise its bound, or subscribe it with when_full='skip'"
    )
    if many:
        wanted = events(30)
        with pytest.raises(BusFull, match=text) as caught:
            producer.notify_many(wanted)
        published = [shadow.id for shadow in caught.value.published]
        assert published == [event.id for event in wanted][: len(published)]
        assert len(published) == backlog_of(consumer) - 1
    else:
        with pytest.raises(BusFull, match=text):
            notify_each(producer, events(30))
    assert 10 <= backlog_of(consumer) <= 15
    with pytest.raises(BusFull, match="within 0 s"):
        producer.notify(Event("now", "a", 1), timeout_s=0)


def test_bytes_are_waited_for(handle: Make) -> None:
    bus = handle(notify_timeout_s=1)
    bus.inbox("slow", ["a"], backlog_bytes_max=100_000)
    with pytest.raises(BusFull, match=r"'slow' has \d+ unsettled bytes, and may have 100000 \(backlog_bytes_max\)"):
        notify_each(bus, events(100, data=b"x" * 10_000))
    assert 10 <= backlog_of(bus) <= 16


def test_a_handler_that_fills_its_own_backlog_is_not_stuck_for_ever(handle: Make, world: InProcessBus) -> None:
    bus = handle(notify_timeout_s=3)
    raised: list[Exception] = []

    @bus.on("a", name="slow", backlog_max=2)
    def again(event: Event) -> None:
        try:
            bus.notify_many(events(10), timeout_s=None)
        except BusFull as error:
            raised.append(error)
            bus.unsubscribe("slow")

    bus.notify(Event("first", "a", 1))
    world.run()
    assert "subscriber 'slow' has" in str(raised[0])


def test_several_with_a_bound_are_all_waited_for(handle: Make) -> None:
    bus = handle(notify_timeout_s=1)
    first = bus.inbox("first", ["a"], backlog_max=4)
    bus.inbox("second", ["a"], backlog_max=100)
    skips = bus.inbox("skips", ["a"], backlog_max=1, when_full="skip")
    with pytest.raises(BusFull, match=r"'first' has \d+ unsettled events, and may have 4"):
        bus.notify_many(events(20))
    first.complete_many(first.get_many(20, 0))
    bus.notify(Event("next", "a", 1))
    assert backlog_of(bus, "skips") == 1
    skips.close()


def test_required_subscribers_with_a_bound(handle: Make) -> None:
    consumer = handle()
    inbox = consumer.inbox("slow", ["a"], backlog_max=4)
    producer = handle(require=["slow"], notify_timeout_s=1)
    with pytest.raises(BusFull):
        notify_each(producer, events(20))
    taken = inbox.get_many(20, 0)
    inbox.complete_many(taken)
    producer.notify_many(events(3))
    consumer.unsubscribe(inbox)
    producer.topics()
    with pytest.raises(NoSubscriber):
        producer.notify(Event("late", "a", 1))


def test_without_the_bound_nobody_asks_any_more(handle: Make) -> None:
    producer, consumer = handle(), handle()
    inbox = consumer.inbox("slow", ["a"], backlog_max=4)
    producer.notify(Event("1", "a", 1))
    protocol = producer._live().connection.protocol
    assert "a" not in protocol.topics
    consumer.inbox("slow", ["a"])
    producer.notify_many(events(20))
    assert "a" in protocol.topics
    inbox.close()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"backlog_max": 0}, "backlog_max=0: give a whole number, 1 or more, or None for any"),
        ({"backlog_bytes_max": "many"}, "backlog_bytes_max='many': give a whole number"),
        ({"when_full": "wait"}, "when_full='wait': give 'block', to have producers wait, or 'skip'"),
    ],
)
def test_what_is_no_bound(handle: Make, settings: dict[str, Any], text: str) -> None:
    bus = handle()
    for call in (
        lambda: bus.on("a", **settings),
        lambda: bus.subscribe(print, ["a"], **settings),
        lambda: bus.inbox("one", ["a"], **settings),
    ):
        with pytest.raises(UsageError, match=text):
            call()


# --- processes ---


def test_producers_wait_until_the_subscriber_is_unsubscribed(make_bus: Make) -> None:
    bus, producer = make_bus(topics=["a"]), make_bus()
    inbox = bus.inbox("slow", ["a"], backlog_max=4)
    bus.inbox("other", ["a"])
    done: list[int] = []
    waiting = threading.Thread(target=lambda: done.append(len(producer.notify_many(events(50)))))
    waiting.start()
    until(lambda: backlog_of(bus) >= 4)
    assert not done
    bus.unsubscribe(inbox)
    waiting.join(WAIT_S)
    assert done == [50]
    assert backlog_of(bus, "other") == 50


def test_producers_wait_within_the_grace_of_a_process_that_is_killed(make_bus: Make, fork: Any) -> None:
    bus, producer = make_bus(topics=["a"]), make_bus()

    def host(child: Any) -> None:
        make_bus(topics=["a"]).inbox("slow", ["a"], backlog_max=4)
        child.send("ready")
        signal.pause()

    child = fork(host)
    assert child.hear() == "ready"
    done: list[int] = []
    waiting = threading.Thread(target=lambda: done.append(len(producer.notify_many(events(50)))))
    waiting.start()
    until(lambda: backlog_of(bus) >= 4)
    child.kill()
    until(lambda: bus.subscribers()[0].pids == ())
    assert not done
    inbox = bus.inbox("slow", ["a"], backlog_max=4)  # The next process has what waited, and goes on.
    got: list[Any] = []
    while len(got) < 50:
        taken = inbox.get_many(10, WAIT_S)
        got += [shadow.id for shadow in taken]
        inbox.complete_many(taken)
    waiting.join(WAIT_S)
    assert done == [50]
    assert got == [str(number) for number in range(50)]


def test_producers_that_are_killed_while_they_wait_leave_nothing(make_bus: Make, fork: Any) -> None:
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("slow", ["a"], backlog_max=4)

    def produce(child: Any) -> None:
        producer = make_bus()
        child.send("ready")
        producer.notify_many(events(50))

    children = [fork(produce) for _ in range(2)]
    for child in children:
        assert child.hear() == "ready"
    until(lambda: backlog_of(bus) >= 4)
    for child in children:
        child.kill()
    until(lambda: bus.statistics().links == 1)
    taken = inbox.get_many(50, WAIT_S)
    inbox.complete_many(taken)
    bus.notify_many(events(2))
    assert len(inbox.get_many(50, WAIT_S)) == 2


def test_a_takeover_while_producers_wait(make_bus: Make) -> None:
    bus, producer = make_bus(topics=["a"]), make_bus()
    inbox = bus.inbox("slow", ["a"], backlog_max=4)
    done: list[int] = []
    waiting = threading.Thread(target=lambda: done.append(len(producer.notify_many(events(60)))))
    waiting.start()
    got: list[Any] = []
    for takeover in range(3):
        until(lambda: backlog_of(bus) >= 4)
        os.kill(bus.statistics().manager_pid, signal.SIGKILL)
        until(lambda wanted=takeover + 1: bus.snapshot().manager.takeovers == wanted)  # type: ignore[misc]
        taken = inbox.get_many(4, WAIT_S)
        got += [shadow.id for shadow in taken]
        inbox.complete_many(taken)
    while len(got) < 60:
        taken = inbox.get_many(10, WAIT_S)
        got += [shadow.id for shadow in taken]
        inbox.complete_many(taken)
    waiting.join(WAIT_S)
    assert done == [60]
    assert got == [str(number) for number in range(60)]
