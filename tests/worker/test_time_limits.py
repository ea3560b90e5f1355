"""Handlers that take longer than their time limit: their worker is killed, and nothing but their event is accused."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, UsageError, WorkerPool
from eventbus_mp.worker.running_calls import LimitedCall, RunningCalls
from tests.helpers import pause, statistics_of, until

Make = Callable[..., EventBus]

START_METHODS = ("fork", "forkserver", "spawn")
LIMIT_S = 0.3
REASON = f"exceeded its time limit of {LIMIT_S:g} s"


def hold_the_gil(event: Event) -> None:
    """A regular expression that backtracks for longer than the universe has existed, in C."""
    re.match(r"(a+)+$", "a" * 200 + "b")


def wait(event: Event) -> None:
    threading.Event().wait()


def ignore_signals(event: Event) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    signal.sigwait({signal.SIGUSR2})


@pytest.fixture
def strict(make_bus: Make) -> EventBus:
    """A bus that gives up an event after two crashes."""
    return make_bus(topics=["a", "b", "dead"], crashes_max=2, dead_letter_topic="dead")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("hang", [hold_the_gil, wait, ignore_signals])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_handler_that_never_returns(
    strict: EventBus, hang: Callable[[Event], None], start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    dead = strict.inbox("undertaker", ["dead"])
    pool = WorkerPool(strict, 2, start_method=start_method)

    @pool.on("a", name="slow", time_limit_s=LIMIT_S)
    def handle(event: Event) -> None:
        if event.data == 3:
            hang(event)

    pool.on("b", name="other")(lambda event: None)
    with pool:
        strict.notify_many([Event(str(n), "a", n) for n in range(10)] + [Event(str(n), "b", n) for n in range(50)])
        shadow = dead.get(60)
        assert shadow is not None
        assert strict.fetch_event_data(shadow) == 3
        dead.complete(shadow)
        strict.drain(timeout_s=60)
        while pool.restarts < 2:
            strict.topics()
    slow, other = statistics_of(strict, "slow"), statistics_of(strict, "other")
    assert (slow.completed, slow.skipped) == (9, 1)
    assert slow.recent_skips == (("3", f"{REASON} at attempt 2"),)
    assert (other.completed, other.skipped) == (50, 0)
    assert caplog.text.count(f"is killed: the handler of slow {REASON}") == 2
    crashes = strict.history(kind="crashed").entries
    assert [(entry.events, entry.detail) for entry in crashes] == [(1, REASON)] * 2


def test_the_history_says_that_it_took_too_long(make_bus: Make, tmp_path: Path) -> None:
    bus, marker = make_bus(topics=["a"]), tmp_path / "was here"
    pool = WorkerPool(bus, 1)

    @pool.on("a", name="slow", time_limit_s=LIMIT_S)
    def handle(event: Event) -> None:
        if not marker.exists():
            marker.touch()
            wait(event)

    with pool:
        assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=60).completers
    [entry] = bus.history(kind="crashed").entries
    assert entry.text == f"slow: its process {entry.pid} was killed, because its handler {REASON}"
    assert statistics_of(bus, "slow").redelivered == 1


def test_a_call_under_the_limit_is_not_cut(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """Nor one whose retries, which follow at once, take longer together."""
    pool, calls = WorkerPool(bus, 1), []

    @pool.on("a", name="steady", time_limit_s=5, retries=1)
    def handle(event: Event) -> None:
        pause(2.6)
        calls.append(event.id)
        if len(calls) == 1:
            raise ValueError("once more")

    with pool:
        assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=60).completers
    assert pool.restarts == 0
    assert "killed" not in caplog.text


def test_of_a_batch_the_one_that_hangs_is_found(strict: EventBus) -> None:
    pool = WorkerPool(strict, 1)

    @pool.on("a", name="slow", batch=5, within_s=0.2, time_limit_s=LIMIT_S)
    def handle(events: list[Event]) -> None:
        if any(event.data == 3 for event in events):
            hold_the_gil(events[0])

    with pool:
        strict.notify_many([Event(str(n), "a", n) for n in range(5)])
        strict.drain("a", timeout_s=60)
    slow = statistics_of(strict, "slow")
    assert (slow.completed, slow.skipped) == (4, 1)
    assert slow.recent_skips == (("3", f"{REASON} at attempt 2"),)


def test_the_limit_holds_while_the_pool_stops(make_bus: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bus, marker = make_bus(topics=["a"], stop_timeout_s=100_000), tmp_path / "was here"
    pool = WorkerPool(bus, 1)

    @pool.on("a", name="slow", time_limit_s=1)
    def handle(event: Event) -> None:
        marker.touch()
        wait(event)

    with pool:
        bus.notify(Event("1", "a", 1))
        while not marker.exists():
            bus.topics()
    assert "the handler of slow exceeded its time limit of 1 s" in caplog.text


def test_the_limit_holds_while_another_worker_starts(
    make_bus: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus, gate, is_full = make_bus(topics=["a"]), tmp_path / "gate", tmp_path / "is full"
    os.mkfifo(gate)

    def initialize() -> None:
        if is_full.exists():
            with gate.open("rb", buffering=0) as opened:
                opened.read(1)  # It takes until somebody writes.

    pool = WorkerPool(bus, 2, initializer=initialize)

    @pool.on("a", name="slow", time_limit_s=LIMIT_S)
    def handle(event: Event) -> None:
        if is_full.exists():
            wait(event)

    with pool:
        is_full.touch()
        os.kill(pool.pids[0], signal.SIGKILL)
        while pool.restarts < 1:
            bus.topics()
        shadow = bus.notify(Event("1", "a", 1))
        while f"the handler of slow {REASON}" not in caplog.text:
            bus.topics()
        is_full.unlink()
        with gate.open("r+b", buffering=0) as opened:  # for reading as well, or it would wait for a reader
            opened.write(b"go")
            while bus.watcher(shadow) is not None:
                bus.topics()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_calls_that_are_late_together_are_all_accused(make_bus: Make, fork: Callable[..., Any]) -> None:
    """The pool's process is stopped until both are."""
    bus = make_bus(topics=["a", "b", "said", "dead"], crashes_max=1, dead_letter_topic="dead")
    begun, dead = bus.inbox("said", ["said"]), bus.inbox("undertaker", ["dead"])

    def host(to_parent: Any) -> None:
        pool = WorkerPool(bus, 1, start_method="fork")  # The fork server is the parent's.

        def hang(event: Event) -> None:
            bus.notify(Event(event.id, "said", None))
            wait(event)

        pool.on("a", name="one", time_limit_s=LIMIT_S, threads=2)(hang)
        pool.on("b", name="two", time_limit_s=LIMIT_S, threads=2)(hang)
        with pool:
            to_parent.send("started")
            to_parent.recv()

    child = fork(host)
    child.hear(60)
    os.kill(child.pid, signal.SIGSTOP)
    bus.notify_many([Event("1", "a", 1), Event("2", "b", 2)])
    for _ in range(2):
        shadow = begun.get(60)
        assert shadow is not None
        begun.complete(shadow)
    both_are_late = time.monotonic() + LIMIT_S
    until(lambda: time.monotonic() > both_are_late)
    os.kill(child.pid, signal.SIGCONT)
    for _ in range(2):
        shadow = dead.get(60)
        assert shadow is not None
        dead.complete(shadow)
    bus.drain(timeout_s=60)
    child.tell()
    assert child.wait() == 0
    reasons = {name: statistics_of(bus, name).recent_skips for name in ("one", "two")}
    assert reasons == {"one": (("1", f"{REASON} at attempt 1"),), "two": (("2", f"{REASON} at attempt 1"),)}


def test_the_limit_holds_while_the_manager_hangs(make_bus: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It would be asked for 120 s, which is longer than this waits."""
    bus = make_bus(topics=["a", "said"], request_timeout_s=120)
    begun, pool = bus.inbox("said", ["said"]), WorkerPool(bus, 1)

    @pool.on("a", name="slow", time_limit_s=1)
    def handle(event: Event) -> None:
        if event.data == "hang":
            bus.notify(Event(event.id, "said", None))
            wait(event)

    with pool:
        [worker] = pool.pids
        bus.notify(Event("1", "a", "hang"))
        shadow = begun.get(60)
        assert shadow is not None
        begun.complete(shadow)
        manager = bus.statistics().manager_pid
        os.kill(manager, signal.SIGSTOP)
        try:
            until(lambda: worker not in pool.pids)
        finally:
            os.kill(manager, signal.SIGCONT)
        until(lambda: pool.restarts == 1)
    assert "the handler of slow exceeded its time limit of 1 s" in caplog.text


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), "5", True])
def test_what_is_no_limit(bus: EventBus, limit: Any) -> None:
    with pytest.raises(UsageError, match="time_limit_s="):
        WorkerPool(bus, 1).on("a", time_limit_s=limit)


# --- what the pool sees ---


def seen(calls: RunningCalls) -> list[int]:
    return [call.handler for call in calls.running()]


def event() -> Event:
    return Event("1", "a", 1)


def test_each_thread_has_a_place_of_its_own() -> None:
    calls, inside, go_on = RunningCalls(), threading.Barrier(3), threading.Event()

    def stay(items: list[Event]) -> None:
        inside.wait(20)
        go_on.wait(20)

    threads = [threading.Thread(target=LimitedCall(calls, number, 60, stay), args=([],)) for number in (0, 7)]
    for thread in threads:
        thread.start()
    inside.wait(20)
    assert sorted(seen(calls)) == [0, 7]
    assert all(call.sequence == 0 and call.deadline_ns > time.monotonic_ns() for call in calls.running())
    go_on.set()
    for thread in threads:
        thread.join()
    assert seen(calls) == []
    calls.close()


def test_a_thread_that_has_a_place_and_no_call_yet_hides_no_other() -> None:
    """The other one may hold the GIL for ever, and the first then never begins."""
    calls, found = RunningCalls(), list[int]()
    first = threading.Thread(target=calls.place)
    first.start()
    first.join()
    LimitedCall(calls, 3, 60, lambda items: found.extend(seen(calls)))([])
    assert found == [3]
    calls.close()


def test_a_forked_child_that_returns_from_the_handler_ends_no_call(fork: Callable[..., Any]) -> None:
    calls = RunningCalls()
    call = LimitedCall(calls, 1, 60, lambda items: items[0]())

    def in_parent() -> None:
        def in_child(to_parent: Any) -> None:
            call._call = lambda items: None
            call([])
            to_parent.send(seen(calls))

        child = fork(in_child)
        child.hear()
        assert seen(calls) == [1]

    call([in_parent])
    assert seen(calls) == []
    calls.close()


def test_a_call_that_raises_is_over() -> None:
    calls = RunningCalls()
    with pytest.raises(ZeroDivisionError):
        LimitedCall(calls, 0, 60, lambda items: 1 / 0)([])
    assert seen(calls) == []
    calls.close()
