"""Handlers on several threads of a real process: none of them waits for another."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from eventbus_mp import Event, EventBus
from eventbus_mp.runtime.stacks import ANSWERS
from tests.client.gates import Gate, names_of_threads
from tests.helpers import publish, statistics_of

Make = Callable[..., EventBus]


def test_a_broadcast_is_handled_while_a_job_is(bus: EventBus, gate: Gate) -> None:
    stale: SimpleQueue[str] = SimpleQueue()
    bus.on("a", name="job")(gate)
    bus.on("b", name="cache", broadcast=True)(lambda event: stale.put(event.id))
    publish(bus, 1)
    gate.await_begun(1)
    publish(bus, 100, "b")
    assert [stale.get(timeout=20) for _ in range(100)] == [str(number) for number in range(100)]
    assert gate.ended.empty()
    gate.open()
    bus.drain(timeout_s=20)


def test_a_job_is_handled_while_a_broadcast_is(bus: EventBus, gate: Gate) -> None:
    done: SimpleQueue[str] = SimpleQueue()
    bus.on("a", name="cache", broadcast=True)(gate)
    bus.on("b", name="job")(lambda event: done.put(event.id))
    publish(bus, 1)
    gate.await_begun(1)
    publish(bus, 1, "b")
    assert done.get(timeout=20) == "0"
    assert gate.ended.empty()


def test_a_process_has_the_threads_that_it_needs(bus: EventBus) -> None:
    bus.on("a", name="all", broadcast=True)(print)
    assert names_of_threads() == ["eventbus_mp-test-broadcast"]
    bus.on("a", name="own", threads=2)(print)
    assert names_of_threads() == ["eventbus_mp-test-broadcast", "eventbus_mp-test-own", "eventbus_mp-test-own"]
    bus.on("a", name="one")(print)
    assert "eventbus_mp-test" in names_of_threads()
    bus.close()
    assert names_of_threads() == []


def test_four_run_at_once_and_others_run_beside_them(bus: EventBus) -> None:
    barrier, done = threading.Barrier(4), []
    bus.on("a", name="four", threads=4)(lambda event: barrier.wait(30) and None)
    bus.on("b", name="other")(lambda event: done.append(event.id))
    publish(bus, 40)
    publish(bus, 40, "b")
    bus.drain(timeout_s=30)
    assert statistics_of(bus, "four").completed == 40
    assert done == [str(number) for number in range(40)]


def test_fast_events_on_several_threads_come_once_each(bus: EventBus) -> None:
    got: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        bus.on("a", name="four", threads=4)(lambda event: got.append(event.data))
        publish(bus, 20_000)
        bus.drain(timeout_s=60)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(got) == list(range(20_000))
    assert statistics_of(bus, "four").redelivered == 0


def test_a_manager_that_is_killed_while_four_run(bus: EventBus, gate: Gate) -> None:
    bus.on("a", name="four", threads=4)(gate)
    publish(bus, 12)
    first = gate.await_begun(4)
    os.kill(bus.statistics().manager_pid, signal.SIGKILL)
    bus.topics()
    assert gate.begun.empty()
    gate.open()
    bus.drain(timeout_s=20)
    assert sorted([*first, *gate.await_begun(8)], key=int) == [str(number) for number in range(12)]
    assert gate.begun.empty()
    seen = statistics_of(bus, "four")
    assert (seen.completed, seen.redelivered) == (12, 0)


def test_managers_that_are_killed_under_load(bus: EventBus) -> None:
    got: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        bus.on("a", name="four", threads=4)(lambda event: got.append(event.data))
        for turn in range(10):
            bus.notify_many([Event(str(number), "a", number) for number in range(turn * 500, (turn + 1) * 500)])
            os.kill(bus.statistics().manager_pid, signal.SIGKILL)
        bus.drain(timeout_s=30)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(got) == list(range(5000))
    assert statistics_of(bus, "four").completed == 5000


def test_what_the_threads_of_a_stuck_handler_do_can_be_seen(make_bus: Make, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a"])

    def work(to_parent: Any) -> None:
        begun = threading.Barrier(3)

        def hold_for_ever(event: Event) -> None:
            begun.wait(30)
            threading.Event().wait()

        make_bus().on("a", name="two", threads=2)(hold_for_ever)
        to_parent.send("ready")
        begun.wait(30)
        to_parent.send("begun")
        to_parent.recv()

    child = fork(work)
    assert child.hear() == "ready"
    publish(bus, 2)
    assert child.hear() == "begun"
    explained = bus.explain(("a", "1"))
    (delivery,) = explained.deliveries
    assert delivery.pid == child.pid
    if ANSWERS:
        assert delivery.stack is not None
        assert delivery.stack.count("hold_for_ever") == 2
    assert len(bus.stuck(older_than_s=0)) == 2
