"""Handlers on several threads of a real process: each way to end waits for all of them, or says which it cut off."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventBusError
from tests.client.gates import Gate, names_of_threads
from tests.helpers import publish, statistics_of, until

Make = Callable[..., EventBus]


def test_closing_waits_for_all_that_run(bus: EventBus, make_bus: Make, gate: Gate) -> None:
    bus.on("a", name="two", threads=2)(gate)
    bus.on("b", name="all", broadcast=True)(gate)
    make_bus().notify_many([Event(str(number), "a", number) for number in range(6)])
    publish(bus, 1, "b")
    gate.await_begun(3)
    closing = threading.Thread(target=bus.close)
    closing.start()
    other = make_bus()
    gate.open()
    closing.join(20)
    assert not closing.is_alive()
    assert names_of_threads() == []
    seen = statistics_of(other, "two")
    assert (seen.sent, seen.completed + seen.queued) == (0, 6)
    assert gate.ended.qsize() == seen.completed + 1
    assert gate.begun.qsize() == gate.ended.qsize() - 3


def test_a_handler_may_close_the_bus_while_others_run(bus: EventBus, make_bus: Make) -> None:
    begun, closed = threading.Barrier(3), threading.Event()

    @bus.on("a", name="three", threads=3)
    def work(event: Event) -> None:
        begun.wait(30)
        if event.id == "0":
            bus.close()
            closed.set()

    publish(bus, 3)
    assert closed.wait(20)
    assert statistics_of(make_bus(), "three").completed == 2


def test_unsubscribing_while_all_threads_run(bus: EventBus, gate: Gate) -> None:
    bus.on("a", name="two", threads=2)(gate)
    publish(bus, 6)
    gate.await_begun(2)
    threads = [thread for thread in threading.enumerate() if thread.name == "eventbus_mp-test-own"]
    assert bus.unsubscribe("two")
    gate.open()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    bus.drain(timeout_s=20)
    assert gate.begun.empty()


def test_a_subscriber_gets_other_threads_while_the_former_run(bus: EventBus, gate: Gate) -> None:
    bus.on("a", name="two", threads=2)(gate)
    publish(bus, 2)
    gate.await_begun(2)
    for threads in (3, 1, 2):
        bus.on("a", name="two", threads=threads)(gate)
    publish(bus, 6)
    gate.open()
    bus.drain(timeout_s=20)
    assert statistics_of(bus, "two").completed == 8
    until(lambda: len(names_of_threads()) == 3)


def test_no_thread_for_all_of_them(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus.topics()
    left = [2]
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EventBusError, match="cannot start the thread for the handlers of bus 'test'"):
            bus.on("a", name="one", threads=4)(print)
    assert bus.subscribers() == []
    for thread in threading.enumerate():
        if thread.name.startswith("eventbus_mp-test"):
            thread.join(20)
    assert names_of_threads() == []
    bus.on("a", name="one", threads=4)(lambda event: None)
    assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=20).completers


PROGRAM = """
    import os, threading
    from eventbus_mp import Event, EventBus

    bus = EventBus("test", ["a", "b"], run_dir=os.environ["RUN_DIR"], exit_timeout_s=0.2)
    begun = threading.Barrier(4)

    def hold(event):
        begun.wait()
        threading.Event().wait()

    bus.on("a", name="slow", threads=2)(hold)
    bus.on("b", name="cache", broadcast=True)(hold)
    bus.notify_many([Event("1", "a", 1), Event("2", "a", 2), Event("3", "b", 3)])
    begun.wait()
"""


def test_what_still_runs_at_the_end_of_a_program_is_named(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, "RUN_DIR": str(run_dir)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0
    for name, count in (("slow", 2), ("cache", 1)):
        assert done.stderr.count(f"the handler of {name} still runs after exit_timeout_s, 0.2 s") == count
    assert statistics_of(bus, "slow").queued == 2


@pytest.mark.parametrize("kills", [True, False], ids=["killed", "os._exit(0)"])
def test_all_that_a_dead_process_ran_are_suspects(make_bus: Make, fork: Callable[..., Any], kills: bool) -> None:
    """The one that ends its process is given up at last, and the others are handled."""
    bus = make_bus(topics=["a"])
    bus.inbox("four", ["a"]).close(keep=True)

    def work(to_parent: Any) -> None:
        begun, own = threading.Barrier(4), make_bus()
        is_first = not to_parent.recv()

        def handle(event: Event) -> None:
            if is_first:
                begun.wait(30)
            if event.data == 2:
                os.kill(os.getpid(), signal.SIGKILL) if kills else os._exit(0)
            if is_first:
                threading.Event().wait()

        own.on("a", name="four", threads=4)(handle)
        own.drain(timeout_s=30)
        own.close()

    publish(bus, 4)
    for turn in range(3):
        child = fork(work)
        child.tell(turn)
        assert child.wait() == (-signal.SIGKILL if kills else 0)
    child = fork(work)
    child.tell(3)
    assert child.wait() == 0
    seen = statistics_of(bus, "four")
    assert (seen.completed, seen.skipped) == (3, 1)
    assert seen.recent_skips[0][0] == "2"
    assert "its process crashed 3 times with it" in seen.recent_skips[0][1]


def test_a_forked_child_has_threads_of_its_own(bus: EventBus, gate: Gate, fork: Callable[..., Any]) -> None:
    bus.on("a", name="two", threads=2)(gate)
    bus.on("b", name="all", broadcast=True)(print)
    publish(bus, 2)
    gate.await_begun(2)

    def work(to_parent: Any) -> None:
        barrier = threading.Barrier(2)
        bus.on("b", name="children", threads=2)(lambda event: barrier.wait(30) and None)
        bus.notify_many([Event("1", "b", 1), Event("2", "b", 2)])
        bus.drain("b", timeout_s=30)
        bus.close()

    assert fork(work).wait() == 0
    gate.open()
    bus.drain(timeout_s=20)


def test_threads_that_still_run_when_the_bus_was_lost_are_not_joined_by_others(
    make_bus: Make, kill_bus: Callable[[], None], gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(topics=["a", "b"])
    stale: SimpleQueue[str] = SimpleQueue()
    bus.on("a", name="two", threads=2)(gate)
    bus.on("b", name="cache", broadcast=True)(lambda event: stale.put(event.id))
    publish(bus, 2)
    gate.await_begun(2)
    with caplog.at_level(logging.WARNING, "eventbus_mp"):
        kill_bus()
        until(lambda: {item.name for item in bus.subscribers()} == {"two", "cache"})
        publish(bus, 2)
        bus.notify(Event("stale", "b", 1))
        assert stale.get(timeout=20) == "stale"
    assert gate.begun.empty()
    gate.open()
    bus.drain(timeout_s=20)
    assert gate.await_begun(2) == ["0", "1"]
    assert caplog.text.count("listeners of bus 'test' stop") == 1
    assert caplog.text.count("was lost") == 1
