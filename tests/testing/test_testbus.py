"""`TestBus`: a program's handles on a bus in one thread, what it recorded, its time, and its faults."""

import math
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import (
    BusClosed,
    BusFull,
    Event,
    EventBus,
    EventSource,
    NoSuchBus,
    Retry,
    Skip,
    UsageError,
    WaitTimeout,
    WorkerPool,
    aio,
)
from eventbus_mp.testing import ProcessDied, TestBus


def event(number: int = 1, topic: str = "a", data: Any = None, **fields: Any) -> Event:
    return Event(str(number), topic, data, **fields)


@pytest.fixture
def bus() -> Any:
    with TestBus(topics=["a", "b"]) as made:
        yield made


# --- what happens, and when ---


def test_nothing_happens_by_itself(bus: TestBus) -> None:
    got: list[Any] = []
    bus.on("a", name="one")(lambda event: got.append(event.data))
    bus.notify(event(data={"n": 1}))
    assert got == []
    bus.deliver_all()
    assert got == [{"n": 1}]
    assert bus.statistics().events_unsettled == 0


def test_calls_that_wait_deliver(bus: TestBus) -> None:
    bus.on("a", name="one")(lambda event: None)
    assert len(bus.notify_and_wait(event()).completers) == 1
    bus.notify(event(2))
    bus.drain()
    assert bus.statistics().subscribers[0].completed == 2


def test_the_first_error_of_a_handler_is_raised(bus: TestBus) -> None:
    error = KeyError("no such order")

    def fail(event: Event) -> None:
        raise error

    bus.on("a", name="one")(fail)
    bus.notify(event())
    with pytest.raises(KeyError) as raised:
        bus.deliver_all()
    assert raised.value is error
    (failure,) = bus.failures
    assert (failure.subscriber.name, failure.items, failure.error) == ("one", (event(),), error)
    bus.notify(event(2))
    bus.deliver_all(raise_errors=False)
    assert bus.statistics().subscribers[0].skipped == 2


def test_skip_and_retry_are_no_errors(bus: TestBus) -> None:
    tries: list[int] = []

    @bus.on("a", name="one")
    def handle(event: Event) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Retry(delay_s=30)
        raise Skip("no use")

    bus.notify(event())
    bus.deliver_all()
    bus.advance(29)
    assert len(tries) == 1
    bus.advance(1.1)
    assert (len(tries), bus.failures, bus.statistics().subscribers[0].skipped) == (2, [], 1)


def test_time_passes_in_its_order(bus: TestBus) -> None:
    """Two delays, the longer one asked for first; `advance` over both runs them as their times come."""
    order: list[tuple[str, int]] = []

    @bus.on("a", name="one")
    def handle(event: Event) -> None:
        first = not any(name == event.id for name, _ in order)
        order.append((event.id, bus.clock.monotonic_ns() // 10**9))
        if first:
            raise Retry(delay_s=event.data)

    bus.notify_many([event(1, data=20), event(2, data=10)])
    bus.advance(60)
    began = order[0][1]
    assert [(name, second - began) for name, second in order] == [("1", 0), ("2", 0), ("2", 10), ("1", 20)]


def test_an_event_expires(bus: TestBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(EventSource(bus, "a", ttl=5_000_000).build("data"))
    bus.advance(6)
    assert inbox.get(0) is None
    assert bus.statistics().subscribers[0].skipped == 1


def test_a_wait_without_an_end_is_an_error(bus: TestBus) -> None:
    inbox = bus.inbox("one", ["a"])
    with pytest.raises(RuntimeError, match="this wait has no end"):
        inbox.get()


def test_handlers_that_never_come_to_an_end_are_an_error(bus: TestBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus_mp.testing.inprocess.STEPS_MAX", 1_000)

    @bus.on("a", name="one")
    def again(event: Event) -> None:
        raise Retry

    bus.notify(event())
    with pytest.raises(RuntimeError, match="does a handler publish, or raise Retry, without end"):
        bus.deliver_all()


# --- what was recorded ---


def test_what_nobody_wants_is_recorded_as_well(bus: TestBus) -> None:
    bus.notify(event(1, data={"total": 12}, source="shop"))
    bus.notify_many([event(2), event(3, "b")])
    assert [item.id for item in bus.notified] == ["1", "2", "3"]
    (found,) = bus.assert_notified("a", data={"total": 12}, source="shop")
    assert found.id == "1"
    assert len(bus.assert_notified("a", times=2)) == 2
    bus.assert_notified("a", times=0, data="other")
    with pytest.raises(AssertionError, match=r"2 events of topic 'b', id='3' expected, 1 were published. Published"):
        bus.assert_notified("b", id="3", times=2)
    with pytest.raises(AssertionError, match="at least one event of topic 'c' expected, 0 were published"):
        bus.assert_notified("c")
    with pytest.raises(UsageError, match="an event has no field 'dota'"):
        bus.assert_notified("a", dota=1)


def test_what_was_not_published_is_not_recorded(bus: TestBus) -> None:
    bus.inbox("one", ["a"])
    with bus.memory_full(), pytest.raises(BusFull):
        bus.notify(event())
    assert bus.notified == []


# --- the program's own handles ---


def test_every_handle_of_its_name_is_a_client_of_it() -> None:
    other = EventBus("shop", topics=["order"])
    with TestBus("shop") as bus:
        got: list[str] = []
        other.on("order", name="bill")(lambda event: got.append(event.id))
        EventBus("shop").notify(event(7, "order"))
        bus.deliver_all()
        assert got == ["7"]
        assert bus.topics() == ["order"]
        bus.assert_notified("order", times=1)
    assert not other.connected


def test_a_handle_that_is_connected_is_moved_with_what_it_has_subscribed(bus: TestBus) -> None:
    """As one that subscribes when its module is imported, here on the bus of the whole run."""
    got: list[str] = []
    program = EventBus("test")
    program.on("a", name="one")(lambda event: got.append(event.id))
    with TestBus("test", topics=["a"]) as inner:
        program.on("a", name="two")(lambda event: got.append("two"))
        program.notify(event(1))
        inner.deliver_all()
        assert got == ["1", "two"]
    assert [item.name for item in program.subscribers()] == ["one"]
    program.notify(event(2))
    bus.deliver_all()
    assert got == ["1", "two", "2"]
    assert [item.id for item in bus.notified] == ["2"]


def test_after_shutdown_there_is_no_bus(bus: TestBus) -> None:
    other = EventBus("test")
    assert other.topics() == ["a", "b"]
    other.shutdown()
    with pytest.raises(NoSuchBus, match="bus 'test', a TestBus, was shut down"):
        EventBus("test").topics()


def test_other_threads_and_processes_are_refused(bus: TestBus, fork: Any) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        try:
            EventBus("test").topics()
        except UsageError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "lives in the thread that has made it" in str(errors)

    def work(to_parent: Any) -> None:
        use()
        to_parent.send(str(errors[-1]))

    child = fork(work)
    assert "lives in the thread that has made it" in child.hear()
    assert child.wait() == 0


# --- pools, and faults ---


def test_a_pools_handlers_run(bus: TestBus) -> None:
    pool, got = WorkerPool(bus, 2), []
    pool.on("a", name="one")(lambda event: got.append(event.id))
    workers = bus.run_pool(pool, processes=2)
    bus.notify_many([event(number) for number in range(4)])
    bus.deliver_all()
    assert sorted(got) == ["0", "1", "2", "3"]
    assert len(workers) == 2
    with pytest.raises(UsageError, match="run_pool"):
        pool.start()


def test_a_process_dies_and_another_one_goes_on(bus: TestBus) -> None:
    first, second = bus.process(), bus.process()
    mine = first.inbox("one", ["a"])
    theirs = second.inbox("one", ["a"])
    bus.notify(event())
    shadow = mine.get(1)
    assert shadow == ("a", "1")
    bus.kill(first)
    assert theirs.get(1) == shadow
    with pytest.raises(BusClosed):
        first.topics()


def test_a_process_dies_in_the_middle_of_its_handler(bus: TestBus) -> None:
    seen: list[str] = []
    workers = [bus.process(), bus.process()]

    def handler(worker: EventBus, name: str) -> Any:
        def handle(event: Event) -> None:
            seen.append(f"{name} begins")
            if len(seen) == 1:
                bus.kill(worker)
            seen.append(f"{name} ends")

        return handle

    for name, worker in zip("xy", workers, strict=True):
        worker.on("a", name="one")(handler(worker, name))
    bus.notify(event())
    bus.deliver_all()
    assert seen in (["x begins", "y begins", "y ends"], ["y begins", "x begins", "x ends"])
    assert bus.failures == []
    assert bus.statistics().subscribers[0].completed == 1


def test_a_bus_does_not_kill_itself(bus: TestBus) -> None:
    for handle in (bus, EventBus("test"), EventBus("another")):
        with pytest.raises(UsageError, match="give another handle of bus 'test', one that is connected"):
            bus.kill(handle)
    assert issubclass(ProcessDied, BusClosed)


def test_the_manager_dies(bus: TestBus) -> None:
    got: list[str] = []
    bus.on("a", name="one")(lambda event: got.append(event.id))
    bus.notify(event(1))
    bus.replace_manager()
    bus.notify(event(2))
    bus.deliver_all()
    assert got == ["1", "2"]


def test_memory_is_full_and_comes_free(bus: TestBus) -> None:
    inbox = bus.inbox("one", ["a"])
    bus.notify(event(1))
    with bus.memory_full():
        with pytest.raises(BusFull):
            bus.notify(event(2))
        with pytest.raises(BusFull):
            bus.notify(event(3, data=bytes(100_000)))
    bus.notify(event(4))
    assert [shadow.id for shadow in inbox.get_many(10, timeout_s=0)] == ["1", "4"]


def test_a_call_waits_as_long_as_it_says(bus: TestBus) -> None:
    bus.inbox("one", ["a"])
    with bus.memory_full():
        for timeout_s in (0, 0.25, 7):
            began_ns = bus.clock.monotonic_ns()
            with pytest.raises(BusFull, match=f"became free within {timeout_s} s"):
                bus.notify(event(), timeout_s=timeout_s)
            with pytest.raises(BusFull, match=f"became free within {timeout_s} s"):
                bus.notify_many([event()], timeout_s=timeout_s)
            assert bus.clock.monotonic_ns() - began_ns == 2 * timeout_s * 1e9
        with pytest.raises(UsageError, match="timeout_s='soon'"):
            bus.notify(event(), timeout_s="soon")  # type: ignore[arg-type]
    bus.notify(event(), timeout_s=float("inf"))


def test_a_handler_that_meets_full_memory_gets_its_event_again(bus: TestBus) -> None:
    bus.inbox("end", ["b"])

    @bus.on("a", name="stage")
    def stage(event: Event) -> None:
        bus.notify(Event(event.id, "b", event.data))

    bus.notify(event(1))
    with bus.memory_full():
        bus.deliver_all()
    bus.assert_notified("b", times=0)
    bus.advance(5)
    bus.assert_notified("b", times=1)


def test_it_is_closed_once_and_for_all(bus: TestBus) -> None:
    pid = os.getpid()
    bus.close()
    bus.close()
    with pytest.raises(BusClosed):
        bus.notify(event())
    with pytest.raises(BusClosed, match="'test' was closed; make another one"):
        bus.process()
    assert os.getpid() == pid


@pytest.mark.parametrize("seconds", [None, "1", True, -1, math.nan, math.inf, 10**400])
def test_what_is_no_time(bus: TestBus, seconds: Any) -> None:
    now_ns = bus.clock.monotonic_ns()
    with pytest.raises(UsageError, match="advance: seconds="):
        bus.advance(seconds)
    assert bus.clock.monotonic_ns() == now_ns


@pytest.mark.parametrize("timeout_s", [math.inf, -math.inf, 10**300, -1])
def test_any_number_is_a_timeout(bus: TestBus, timeout_s: float) -> None:
    with bus.inbox("box", ["a"]) as inbox:
        assert inbox.get(timeout_s) is None
        bus.notify(event(), timeout_s=timeout_s)
        with pytest.raises(WaitTimeout):
            bus.drain(timeout_s=timeout_s)
        with bus.memory_full(), pytest.raises(BusFull):
            bus.notify(event(2), timeout_s=timeout_s)


def test_what_its_calls_are_not_for(bus: TestBus) -> None:
    pool = WorkerPool(bus, processes=1)
    calls: list[Callable[[], object]] = [
        lambda: bus.run_pool(None),  # type: ignore[arg-type]
        lambda: bus.run_pool(pool, 0),
        lambda: bus.run_pool(pool, 1.5),  # type: ignore[arg-type]
        lambda: bus.kill(None),  # type: ignore[arg-type]
        lambda: bus.kill(pool),  # type: ignore[arg-type]
        lambda: bus.kill(aio.EventBus("test")),  # type: ignore[arg-type]
        lambda: bus.run_pool(aio.EventBus("test")),  # type: ignore[arg-type]
        lambda: bus.assert_notified("a", times=-1),
        lambda: bus.assert_notified("a", times="2"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
