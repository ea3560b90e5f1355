"""Handlers of a pool with threads of their own: beside the worker's main thread, and ended with it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox, WorkerPool
from tests.helpers import publish, statistics_of

Make = Callable[..., EventBus]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def out(bus: EventBus) -> Inbox:
    """Where the workers' answers, events of topic "b", arrive."""
    return bus.inbox("out", ["b"], credit=100)


def hear(out: Inbox, count: int) -> list[Any]:
    """The data of the next `count` answers."""
    said: list[Any] = []
    while len(said) < count:
        for shadow, event in out.events(count - len(said), 30):
            said.append(event.data)
            out.complete(shadow)
    return said


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_four_run_at_once_in_one_worker_beside_its_main_thread(bus: EventBus, start_method: str) -> None:
    pool = WorkerPool(bus, 1, start_method=start_method)
    barriers: dict[str, threading.Barrier] = {}

    @pool.on("a", name="four", threads=4)
    def together(event: Event) -> None:
        barriers.setdefault("four", threading.Barrier(4)).wait(30)
        assert threading.current_thread() is not threading.main_thread()

    @pool.on("a", name="main")
    def alone(event: Event) -> None:
        assert threading.current_thread() is threading.main_thread()

    with pool:
        publish(bus, 40)
        bus.drain(timeout_s=30)
    assert statistics_of(bus, "four").completed == 40
    assert statistics_of(bus, "main").completed == 40


def test_a_worker_that_is_killed_with_four_in_flight(bus: EventBus, out: Inbox) -> None:
    """All of them come again, one at a time, and count as an attempt."""
    pool = WorkerPool(bus, 1)

    @pool.on("a", name="four", threads=4)
    def hold_once(event: Event) -> None:
        bus.notify(Event(event.id, "b", [os.getpid(), event.data]))
        if "attempt 2" not in " ".join(bus.story(("a", event.id))):
            threading.Event().wait()

    with pool:
        (pid,) = pool.pids
        publish(bus, 4)
        assert sorted(hear(out, 4)) == [[pid, number] for number in range(4)]
        os.kill(pid, signal.SIGKILL)
        again = hear(out, 4)
        bus.drain("a", timeout_s=20)
    assert [number for _, number in again] == [0, 1, 2, 3], "the oldest first, each alone"
    assert {other for other, _ in again}.isdisjoint({pid})
    seen = statistics_of(bus, "four")
    assert (seen.completed, seen.redelivered) == (4, 4)


def test_a_worker_that_leaves_finishes_what_its_threads_run(bus: EventBus, out: Inbox, tmp_path: Path) -> None:
    """And runs the pool's finalizer after that."""
    gates = [str(tmp_path / str(number)) for number in range(2)]
    for gate in gates:
        os.mkfifo(gate)
    pool = WorkerPool(bus, 1, finalizer=lambda: bus.notify(Event("end", "b", "finalized")) and None)

    @pool.on("a", name="two", threads=2)
    def work(event: Event) -> None:
        bus.notify(Event(event.id, "b", "begun"))
        with open(gates[event.data]) as gate:
            gate.read()
        bus.notify(Event(event.id, "b", "ended"))

    pool.start()
    publish(bus, 2)
    assert hear(out, 2) == ["begun", "begun"]
    stopping = threading.Thread(target=pool.stop)
    stopping.start()
    for gate in gates:
        open(gate, "w").close()
    assert hear(out, 3) == ["ended", "ended", "finalized"]
    stopping.join(20)
    assert not stopping.is_alive()
    assert statistics_of(bus, "two").completed == 2


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_s_limit_counts_the_events_of_all_threads(bus: EventBus, out: Inbox, threads: int) -> None:
    pool = WorkerPool(bus, 1, max_events=5)

    @pool.on("a", name="some", threads=threads)
    def work(event: Event) -> None:
        bus.notify(Event(event.id, "b", os.getpid()))

    with pool:
        publish(bus, 20)
        pids = hear(out, 20)
        bus.drain(timeout_s=30)
    assert len(set(pids)) >= 2
    if threads == 1:
        assert max(pids.count(pid) for pid in set(pids)) == 5
    assert statistics_of(bus, "some").completed == 20


def test_what_still_runs_is_cut_off_and_named(make_bus: Make, capfd: pytest.CaptureFixture[str]) -> None:
    bus = make_bus(topics=["a", "b"], stop_timeout_s=0.3)
    out = bus.inbox("out", ["b"], credit=100)
    pool = WorkerPool(bus, 1, start_method="spawn")

    @pool.on("a", name="two", threads=2)
    def hold(event: Event) -> None:
        bus.notify(Event(event.id, "b", 1))
        threading.Event().wait()

    with pool:
        publish(bus, 2)
        hear(out, 2)
    said = capfd.readouterr().err
    assert "is cut off after stop_timeout_s, 0.3 s, with what still runs in it: the handler of two, " in said
    assert "exit_timeout_s" not in said
    seen = statistics_of(bus, "two")
    assert (seen.sent, seen.queued) == (0, 2)
    inbox = bus.inbox("two", ["a"], credit=2)
    shadows = inbox.get_many(2, 20)
    assert [inbox.attempt(shadow) for shadow in shadows] == [1, 1], "as after no crash"
    for shadow in shadows:
        inbox.complete(shadow)
