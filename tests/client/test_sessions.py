"""Handles and processes: forks, dropped handles, exits, and what a listener may do to its process."""

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import multiprocess
import pytest

from eventbus_mp import BusConfig, Event, EventBus, EventBusError, EventSource, Skip, UsageError
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.helpers import await_links

Make = Callable[..., EventBus]


def test_a_dropped_handle_leaves_the_bus(make_bus: Make, run_dir: Path) -> None:
    bus = make_bus(topics=["a"])
    for _ in range(5):
        EventBus("test", run_dir=str(run_dir)).topics()
    gc.collect()
    await_links(bus, 1)


def test_a_listener_goes_on_without_its_handle(make_bus: Make, run_dir: Path, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a"])

    def work(to_parent: Any) -> None:
        handled = threading.Event()
        handle = EventBus("test", run_dir=str(run_dir))
        handle.on("a", name="one")(lambda event: handled.set())
        del handle
        gc.collect()
        to_parent.send("ready")
        assert handled.wait(20)
        to_parent.send("handled")
        to_parent.recv()  # until the listener's thread has reported the outcome

    child = fork(work)
    assert child.hear() == "ready"
    watcher = bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
    assert len(watcher.completers) == 1
    assert child.hear() == "handled"
    child.tell()
    assert child.wait() == 0


def test_a_fork_beside_a_listener_and_a_busy_thread(bus: EventBus, fork: Callable[..., Any]) -> None:
    handled: list[int] = []
    bus.on("a", name="one")(lambda event: handled.append(event.data))
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            bus.notify(Event("thread", "a", 0))

    source = EventSource(bus, "a")

    def work(to_parent: Any) -> None:
        with source.notify() as block:
            block.data = os.getpid()
        bus.close()
        to_parent.send(os.getpid())

    thread = threading.Thread(target=publish)
    thread.start()
    pids = set()
    for _ in range(5):
        child = fork(work)
        pids.add(child.hear())
        assert child.wait() == 0
    stop.set()
    thread.join()
    bus.drain(timeout_s=20)
    assert pids <= set(handled)


def test_the_topics_of_the_config_and_of_the_handle_are_registered(make_bus: Make, run_dir: Path) -> None:
    config = BusConfig(topics=("a", "b"), run_dir=str(run_dir), manager_idle_s=0.5)
    make_bus().topics()
    with EventBus("test", ["b", "c"], config=config) as bus:
        assert bus.topics() == ["a", "b", "c"]
        copy = pickle.loads(pickle.dumps(bus))
        bus.unregister_topic("c")
    with copy:
        assert copy.topics() == ["a", "b", "c"]


EXITS = """
    import sys
    from eventbus_mp import Event, EventBus

    bus = EventBus("test", run_dir=sys.argv[1])
    bus.on("a", name="one")(lambda event: bus.notify(Event(event.id, "b", "told")))
    bus.subscribe(lambda shadow: None, ["a"])
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_the_end_of_a_program_is_no_crash(make_bus: Make, run_dir: Path) -> None:
    bus = make_bus(topics=["a", "b"])
    out = bus.inbox("out", ["b"])
    command = [sys.executable, "-c", textwrap.dedent(EXITS), str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert program.stdout.readline() == "ready\n"
        shadow = bus.notify(Event("1", "a", 1))
        reported = out.get(20)
        assert reported is not None
        out.complete(reported)
        program.stdin.close()
        assert program.wait(20) == 0
    while bus.statistics().links > 1:
        os.sched_yield()
    story = bus.story(shadow)
    assert any("handed back" in line for line in story), story
    assert not any("crashed" in line for line in story), story


def test_sys_exit_in_a_listener_is_its_failure(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    bus.on("a", name="quits")(lambda event: sys.exit("enough"))
    bus.subscribe(lambda shadow: sys.exit("enough, too"), ["a"])
    for event_id in "12":
        watcher = bus.notify_and_wait(Event(event_id, "a", 1), timeout_s=20)
        assert watcher.skippers == watcher.subscribers
    assert "SystemExit: enough, too" in caplog.text


class Untold(Exception):
    def __str__(self) -> str:
        raise ValueError("there are no words for it")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Untold(), "Untold: (its text cannot be had: ValueError)"),
        (Skip(Untold()), "(its text cannot be had: ValueError)"),
        (ValueError("no \udcff"), "ValueError: no \\udcff"),
        (Skip("no \udcff"), "no \\udcff"),
    ],
)
def test_a_reason_that_cannot_be_told_as_it_is(bus: EventBus, error: Exception, reason: str) -> None:
    """File names that are not UTF-8 are lone surrogates, and get into such texts."""

    def fail(_: Any) -> None:
        raise error

    bus.on("a", name="event")(fail)
    bus.subscribe(fail, ["a"])
    for event_id in "12":
        watcher = bus.notify_and_wait(Event(event_id, "a", 1), timeout_s=20)
        assert watcher.skippers == watcher.subscribers
    for subscriber in bus.statistics().subscribers:
        assert subscriber.recent_skips == (("1", reason), ("2", reason))


def test_a_listener_that_uses_a_closed_handle_fails_alone(bus: EventBus, make_bus: Make) -> None:
    closed = make_bus()
    closed.close()
    bus.on("a", name="confused")(lambda event: closed.topics())
    for event_id in "12":
        assert bus.notify_and_wait(Event(event_id, "a", 1), timeout_s=20).skippers


def test_a_listener_may_close_and_unsubscribe(bus: EventBus, make_bus: Make) -> None:
    handle = make_bus()
    closed = threading.Event()

    def leave(event: Event) -> None:
        handle.close()
        closed.set()

    def once(event: Event) -> None:
        bus.unsubscribe(once)

    bus.on("b")(once)
    bus.notify_and_wait(Event("1", "b", 1), timeout_s=20)
    assert bus.subscribers("b") == []
    handle.on("a", name="leaver")(leave)
    bus.notify(Event("1", "a", 1))
    assert closed.wait(20)


def test_on_needs_a_pattern(bus: EventBus) -> None:
    with pytest.raises(UsageError, match="on\\(\\) needs a pattern"):
        bus.on()
    with pytest.raises(UsageError, match="is a function, not a str"):
        bus.on(lambda event: None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"write \['a'\]"):
        bus.subscribe(lambda shadow: None, "a")


def test_a_listener_publishes_while_its_own_process_fills_the_memory(make_bus: Make) -> None:
    """The listener's thread must not wait behind the main thread's order for memory."""
    bus = make_bus(topics=["a", "b"], memory_bytes_max=4 << 20, notify_timeout_s=10)
    payload = bytes(100_000)
    bus.on("a", name="stage")(lambda event: bus.notify(Event(event.id, "b", payload)))
    bus.on("b", name="end")(lambda event: None)
    for index in range(300):
        bus.notify(Event(str(index), "a", payload))
    bus.drain(timeout_s=20)
    assert [item.completed for item in bus.statistics().subscribers] == [300, 300]


@pytest.mark.parametrize("length", [10, 1000])
def test_a_pipeline_of_small_events_in_a_small_memory(make_bus: Make, length: int) -> None:
    bus = make_bus(topics=["a", "b"], memory_bytes_max=1 << 20, notify_timeout_s=10)
    payload = bytes(length)
    bus.on("a", name="stage")(lambda event: bus.notify(Event(event.id, "b", payload)))
    bus.on("b", name="end")(lambda event: None)
    for _ in range(30):
        bus.notify_many(Event(str(index), "a", payload) for index in range(200))
    bus.drain(timeout_s=20)
    assert [item.completed for item in bus.statistics().subscribers] == [6000, 6000]


def test_shutdown_waits_for_the_manager_that_is_there(bus: EventBus, make_bus: Make, run_dir: Path) -> None:
    """And not for the one that this handle knew, which was replaced meanwhile."""
    pid = bus.statistics().manager_pid
    other = make_bus()
    os.kill(pid, signal.SIGKILL)
    while other.statistics().manager_pid == pid:
        os.sched_yield()
    other.close()
    bus.shutdown()
    assert not RunDir(run_dir, "test").path.exists()


def test_a_function_that_takes_another_s_place_is_warned_of(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """Functions of one name are one subscriber; in a loop, only the last one would be left, without a word."""

    def handlers() -> list[Any]:
        def handle(event: Event) -> None:
            """Nothing to do."""

        return [handle]

    for topic, handle in zip("ab", handlers() + handlers(), strict=True):
        bus.on(topic)(handle)
    assert "handle' is subscribed again, with another function" in caplog.text
    caplog.clear()
    bus.on("a", "b")(handle)
    assert not caplog.text
    assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=20).completers


def take_one(bus: EventBus) -> None:
    """What a child does: it holds more deliveries than it takes, and does not close."""
    inbox = bus.inbox("shared", ["a"], credit=5)
    shadow = inbox.get(20)
    assert shadow is not None
    inbox.complete(shadow)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("package", "start_method"), [(multiprocessing, "fork"), (multiprocess, "fork"), (multiprocess, "spawn")]
)
def test_the_end_of_a_child_is_no_crash(make_bus: Make, package: Any, start_method: str) -> None:
    """It ends without atexit. With `crashes_max=1` its unsettled deliveries would be given up after a crash."""
    bus = make_bus(topics=["a"], crashes_max=1)
    bus.inbox("shared", ["a"]).close(keep=True)
    bus.notify_many(Event(str(number), "a", number) for number in range(6))
    for _ in range(3):
        child = package.get_context(start_method).Process(target=take_one, args=(bus,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
    with bus.inbox("shared", ["a"]) as inbox:
        left: list[str] = []
        while len(left) < 3:
            shadow = inbox.get(20)
            assert shadow is not None
            inbox.complete(shadow)
            left.append(shadow.id)
        bus.drain(timeout_s=20)
        (statistics,) = bus.statistics().subscribers
        assert (left, statistics.completed, statistics.skipped) == (["3", "4", "5"], 6, 0)


def test_a_forked_child_does_not_keep_the_memory(bus: EventBus, fork: Callable[..., Any]) -> None:
    """It would keep the pages of segments that are gone, with no name left to find them by."""
    inbox = bus.inbox("one", ["a"], credit=10)
    bus.notify(Event("1", "a", bytes(1 << 20)))
    shadow = inbox.get(20)
    assert shadow is not None
    assert bus.fetch_event(shadow) is not None

    def work(to_parent: Any) -> None:
        with open("/proc/self/maps") as maps:
            to_parent.send([line for line in maps if "ebmp-" in line])

    child = fork(work)
    assert child.hear() == []
    assert child.wait() == 0


def test_a_process_without_standard_streams_starts_a_manager(run_dir: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = f"""
        import os
        from eventbus_mp import EventBus
        os.closerange(0, 3)
        bus = EventBus("test", ["a"], run_dir={str(run_dir)!r})
        try:
            text = repr(bus.topics())
            bus.shutdown()
        except Exception as error:
            text = repr(error)
        with open({str(said)!r}, "w") as file:
            file.write(text)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60, check=False)
    assert said.read_text() == "['a']"


def test_a_thread_that_cannot_be_started_is_tried_again(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no thread for us at this moment. The next subscription needs one as well."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    got: list[str] = []
    take = bus.on("a", name="one")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EventBusError, match="can't start new thread"):
            take(lambda event: got.append(event.id))
    take(lambda event: got.append(event.id))
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=10)
    assert got == ["1"]
    bus.close()


def test_a_closed_handle_that_its_own_handler_uses_is_garbage(bus: EventBus) -> None:
    def subscribed() -> weakref.ref[EventBus]:
        handle = EventBus(bus.name, config=bus.config)
        handle.on("a", name="forwarder")(handle.notify)
        handle.close()
        return weakref.ref(handle)

    gone = subscribed()
    gc.collect()
    assert gone() is None
