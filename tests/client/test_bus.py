"""The handle: many processes, threads, forks, large events, waiting, what outlives what."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, EventShadow, Skip, WaitTimeout

Make = Callable[..., EventBus]


def in_another_process(bus: EventBus, code: str) -> str:
    """Run `code` with `bus` bound to a handle of the same bus; what it printed."""
    preamble = f"from eventbus_mp import *\nbus = EventBus({bus.name!r}, run_dir={bus.config.run_dir!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", preamble + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("length", [1, 1 << 10, 1 << 14, 1 << 16, 1 << 20, 3_000_001])
def test_bytes_of_any_size_come_back(bus: EventBus, length: int) -> None:
    inbox = bus.inbox("one", ["a"])
    data = os.urandom(length)
    bus.notify(Event("1", "a", data))
    shadow = inbox.get(10)
    assert shadow is not None
    assert bus.fetch_event_data(shadow) == data
    inbox.complete(shadow)
    bus.drain(timeout_s=10)


def test_an_event_larger_than_a_segment(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=128 << 20)
    inbox = bus.inbox("one", ["a"])
    data = bytes(40 << 20)
    for event_id in "12":
        bus.notify(Event(event_id, "a", data))
        shadow = inbox.get(10)
        assert shadow is not None
        assert bus.fetch_event_data(shadow) == data
        inbox.complete(shadow)
    bus.drain(timeout_s=10)
    assert bus.statistics().memory_bytes_used == 0


def test_a_view_outlives_its_event_and_is_given_back(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    data = os.urandom(1 << 18)
    bus.notify(Event("1", "a", data))
    shadow = inbox.get(10)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    part = memoryview(event.encoded.data)[-1000:]
    copy = event.copy()
    inbox.complete(shadow)
    bus.drain(timeout_s=10)
    del event
    assert bus.statistics().memory_bytes_leased > 0
    for index in range(100):  # more than the memory holds: what is viewed is not written over
        bus.notify(Event(str(index), "a", bytes(1 << 18)))
        taken = inbox.get(10)
        assert taken is not None
        inbox.complete(taken)
    assert part == data[-1000:]
    del part
    assert inbox.get(0) is None  # the release goes with the next word to the manager
    assert bus.statistics().memory_bytes_leased == 0
    assert copy.data == data


def test_fetch_from_another_process(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("small", "a", {"n": 1}))
    bus.notify(Event("large", "a", bytes(100_000)))
    code = "print(bus.fetch_event_data(('a', 'small')), len(bus.fetch_event_data(('a', 'large'))))"
    assert in_another_process(bus, code) == "{'n': 1} 100000"
    assert len(inbox.get_many(2, 10)) == 2
    assert bus.statistics().memory_bytes_leased == 0


def test_mark_from_another_process(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    shadow = bus.notify(Event("1", "a", bytes(100_000)))
    assert inbox.get(10) == shadow
    in_another_process(bus, "bus.mark_as_completed('one', ('a', '1'))")
    assert bus.watcher(shadow) is None
    # Its delivery is in flight here, so its memory stays until this process has settled it.
    assert bus.fetch_event_data(shadow) == bytes(100_000)
    inbox.complete(shadow)
    assert bus.fetch_event(shadow) is None


def test_many_threads_notify(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])

    def produce(thread: int) -> None:
        for index in range(500):
            bus.notify(Event(f"{thread}.{index}", "a", [thread, index]))

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {}
    for _ in range(8 * 500):
        shadow = inbox.get(30)
        assert shadow is not None
        thread_number, index = bus.fetch_event_data(shadow)
        seen.setdefault(thread_number, []).append(index)
        inbox.complete(shadow)
    for thread in threads:
        thread.join()
    assert seen == {number: list(range(500)) for number in range(8)}


def test_a_forked_child_connects_anew(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"], credit=3)
    bus.notify(Event("parent", "a", 1))
    child = os.fork()
    if child == 0:
        bus.notify(Event("child", "a", 2))
        bus.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    bus.notify(Event("parent again", "a", 3))
    ids = [shadow.id for _ in range(3) if (shadow := inbox.get(10)) is not None]
    assert sorted(ids) == ["child", "parent", "parent again"]


def test_a_pickled_handle(bus: EventBus) -> None:
    copy = pickle.loads(pickle.dumps(bus))
    copy.register_topic("from the copy")
    assert "from the copy" in bus.topics()
    copy.close()
    assert bus.topics()


def test_on_completes_skips_retries_and_fails(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    @bus.on("a", retries=2, name="handler")
    def handle(event: Event) -> None:
        calls.append(event.id)
        if event.id == "skip":
            raise Skip("not for us")
        if event.id == "fail" or (event.id == "retry" and calls.count("retry") < 3):
            raise ValueError(event.id)

    outcomes = {}
    for event_id in ("good", "skip", "retry", "fail"):
        watcher = bus.notify_and_wait(Event(event_id, "a", 1), timeout_s=10)
        outcomes[event_id] = bool(watcher.completers)
    assert outcomes == {"good": True, "skip": False, "retry": True, "fail": False}
    assert calls == ["good", "skip", *["retry"] * 3, *["fail"] * 3]
    assert "raised 3 times" in caplog.text
    (statistics,) = bus.statistics().subscribers
    assert statistics.recent_skips == (("skip", "not for us"), ("fail", "ValueError: fail"))


def test_a_listener_may_ask_and_publish(bus: EventBus) -> None:
    seen: list[object] = []

    @bus.on("a$")
    def first(event: Event) -> None:
        seen.append(bus.topics())
        bus.notify(Event(event.id, "b", event.data))

    @bus.on("b$")
    def second(event: Event) -> None:
        seen.append(event.data)

    bus.notify(Event("1", "a", "passed on"))
    bus.drain(timeout_s=10)
    assert seen == [["a", "b"], "passed on"]


def test_listeners_that_publish_do_not_deadlock_on_full_memory(make_bus: Make) -> None:
    bus = make_bus(topics=["a", "b"], memory_bytes_max=8 << 20, notify_timeout_s=30)
    done: list[str] = []

    @bus.on("a$", name="first")
    def first(event: Event) -> None:
        bus.notify(Event(event.id, "b", event.data))

    @bus.on("b$", name="second")
    def second(event: Event) -> None:
        done.append(event.id)

    for index in range(60):
        bus.notify(Event(str(index), "a", bytes(1 << 19)))
    bus.drain(timeout_s=60)
    assert done == [str(index) for index in range(60)]


def test_waiting_has_an_end(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    with pytest.raises(WaitTimeout, match="event '1' of topic 'a' is not settled"):
        bus.notify_and_wait(Event("1", "a", 1), timeout_s=0.05)
    with pytest.raises(WaitTimeout, match="one has 1 events in flight"):
        bus.drain(timeout_s=0.05)
    bus.drain("b", timeout_s=10)
    shadow = inbox.get(10)
    assert shadow is not None
    inbox.complete(shadow)
    bus.drain(timeout_s=10)


def test_an_expired_event_is_not_handled(bus: EventBus) -> None:
    inbox = bus.inbox("one", ["a"])
    old = time.time_ns() // 1000 - 10_000_000
    bus.notify(Event("late", "a", 1, occurred_at=old, ttl=1_000_000))
    bus.notify(Event("fresh", "a", 1, occurred_at=old, ttl=600_000_000))
    shadow = inbox.get(10)
    assert shadow == ("a", "fresh")
    inbox.complete(shadow)
    bus.drain(timeout_s=10)
    (statistics,) = bus.statistics().subscribers
    assert (statistics.completed, statistics.skipped) == (1, 1)
    assert statistics.recent_skips == (("late", "expired"),)


def test_of_many_that_expire_at_once_the_latest_are_named(bus: EventBus) -> None:
    bus.inbox("one", ["a"], credit=1)
    now = time.time_ns() // 1000
    bus.notify_many(Event(str(index), "a", 1, occurred_at=now, ttl=1_000_000) for index in range(1, 601))
    while bus.statistics().subscribers[0].skipped < 599:
        bus.topics()
    (statistics,) = bus.statistics().subscribers
    assert statistics.recent_skips[-1] == ("600", "expired")
    assert len(statistics.recent_skips) == 100
    assert [event_id for event_id, _ in statistics.recent_skips] == [str(index) for index in range(501, 601)]


def test_what_is_given_up_goes_to_the_dead_letter_topic(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], dead_letter_topic="dead")
    letters = bus.inbox("letters", ["dead"])

    @bus.on("a$")
    def fails(event: Event) -> None:
        raise ValueError("never")

    bus.notify(Event("1", "a", {"total": 12}))
    letter = letters.get(10)
    assert letter == EventShadow("a", "1")
    assert letter is not None
    assert bus.fetch_event_data(letter) == {"total": 12}
    letters.complete(letter)
    bus.drain(timeout_s=10)


def test_broadcast_gives_every_process_every_event(bus: EventBus) -> None:
    code = "inbox = bus.inbox('all', ['a'], broadcast=True)\nprint(flush=True)\ns = inbox.get(30); inbox.complete(s)"
    preamble = f"from eventbus_mp import *\nbus = EventBus({bus.name!r}, run_dir={bus.config.run_dir!r})\n"
    others = [
        subprocess.Popen([sys.executable, "-c", preamble + code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for other in others:
        assert other.stdout is not None
        other.stdout.readline()
    watcher = bus.notify_and_wait(Event("1", "a", 1), timeout_s=30)
    assert len(watcher.completers) == 2
    for other in others:
        other.communicate(timeout=30)
        assert other.returncode == 0


def test_unsubscribed_just_as_the_listener_begins(bus: EventBus) -> None:
    """Between taking the delivery and counting it as in flight: it goes back, and nobody keeps it for ever."""
    begins, may_go_on = threading.Event(), threading.Event()

    def listener(shadow: Any) -> None:
        """Settles nothing."""

    bus.subscribe(listener, ["a"])
    assert bus._session is not None
    reader = bus._session.fetcher
    look = reader.delivered_shadow

    def look_slowly(record: Any) -> Any:
        begins.set()
        may_go_on.wait(20)
        return look(record)

    reader.delivered_shadow = look_slowly  # type: ignore[method-assign]
    bus.notify(Event("1", "a", 1))
    assert begins.wait(20)
    bus.unsubscribe(listener)
    may_go_on.set()
    bus.drain(timeout_s=20)


def test_a_producer_need_not_know_that_its_topic_was_registered_anew(bus: EventBus, make_bus: Make) -> None:
    got: list[int] = []
    bus.on("a", name="taker")(lambda event: got.append(event.data))
    producer = make_bus()
    producer.notify(Event("0", "a", 0))
    bus.drain(timeout_s=20)
    bus.unregister_topic("a")
    bus.register_topic("a")
    for number in range(1, 100):
        producer.notify(Event(str(number), "a", number))
    producer.drain(timeout_s=20)
    assert got == list(range(100))
    assert bus.statistics().events_dropped == 0


def test_a_bus_that_somebody_else_has_shut_down(make_bus: Make) -> None:
    first, second, third = (make_bus(topics=["a"], reconnect=number < 2) for number in range(3))
    for handle in (second, third):
        handle.topics()
    first.shutdown()
    for handle in (second, third):
        handle.shutdown()
        with pytest.raises(BusClosed):
            handle.topics()


def test_several_that_shut_a_bus_down_at_once(make_bus: Make) -> None:
    for _ in range(3):
        handles = [make_bus(topics=["a"]) for _ in range(4)]
        for handle in handles:
            handle.topics()
        errors: list[BaseException] = []
        ready = threading.Barrier(len(handles))

        def end(handle: EventBus, ready: threading.Barrier = ready, errors: list[BaseException] = errors) -> None:
            ready.wait(20)
            try:
                handle.shutdown()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=end, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
