"""Worker pools: start methods, what is shipped, orderly ends, and who replaces whom."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import multiprocess
import pytest

from eventbus_mp import Event, EventBus, EventBusError, Inbox, Skip, SubscriberKey, UsageError, WorkerPool
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.worker.running_calls import RunningCalls
from eventbus_mp.worker.worker import WorkerTask, run_worker
from tests.helpers import pause, statistics_of
from tests.worker.answers import START_METHODS, take

Make = Callable[..., EventBus]


def events(count: int) -> list[Event]:
    return [Event(str(index), "a", index) for index in range(count)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("start_method", START_METHODS)
def test_closures_run_in_the_workers(bus: EventBus, out: Inbox, start_method: str) -> None:
    factor = 3
    pool = WorkerPool(bus, 2, start_method=start_method)

    @pool.on("a", name="triple")
    def triple(event: Event) -> None:
        bus.notify(Event(event.id, "b", [event.data * factor, os.getpid()]))

    with pool:
        bus.notify_many(events(20))
        answers = take(out, 20)
        assert {pid for _, pid in answers} <= set(pool.pids)
        assert os.getpid() not in pool.pids
        bus.drain(timeout_s=20)
    assert sorted(value for value, _ in answers) == [3 * index for index in range(20)]
    assert pool.pids == []
    assert statistics_of(bus, "triple").completed == 20


def test_a_listener_that_settles_itself(bus: EventBus) -> None:
    pool = WorkerPool(bus, 1)
    keys: list[SubscriberKey] = []

    def listen(shadow: Any, config: dict[str, str]) -> None:
        settle = bus.mark_as_skipped if config["region"] == "us" else bus.mark_as_completed
        settle(SubscriberKey(keys[0].name, config), shadow)

    keys.append(pool.subscribe((listen, {"region": "eu"}), ["a"]))
    keys.append(pool.subscribe((listen, {"region": "us"}), ["a"]))
    with pool:
        watcher = bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
    assert (watcher.completers, watcher.skippers) == ((keys[0],), (keys[1],))


def test_retries_skips_and_failures(bus: EventBus) -> None:
    pool = WorkerPool(bus, 1)

    @pool.on("a", retries=2, name="picky")
    def picky(event: Event) -> None:
        if event.data == "skip":
            raise Skip("not today")
        if event.data == "exit":
            sys.exit("a listener's exit is its failure")

    with pool:
        for data in ("skip", "exit", "fine"):
            bus.notify(Event(data, "a", data))
        bus.drain(timeout_s=20)
        assert pool.restarts == 0
    found = statistics_of(bus, "picky")
    assert (found.completed, found.skipped) == (1, 2)
    assert found.recent_skips == (
        ("skip", "not today"),
        ("exit", "SystemExit: a listener's exit is its failure"),
    )


def test_a_pool_may_run_again(bus: EventBus) -> None:
    pool = WorkerPool(bus, 1)
    pool.on("a", name="one")(print_nothing)
    pool.stop()
    for _ in range(2):
        pool.start()
        with pytest.raises(UsageError, match="running"):
            pool.start()
        with pytest.raises(UsageError, match="before the pool starts"):
            pool.on("b")(print_nothing)
        bus.notify(Event("1", "a", 1))
        bus.drain(timeout_s=20)
        pool.stop()
        pool.stop()
    assert statistics_of(bus, "one").completed == 2


def print_nothing(event: Event) -> None:
    """A handler that is done at once."""


# --- leaving in good order ---


def test_max_events_recycles_workers(bus: EventBus, out: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    pool = WorkerPool(bus, 1, max_events=3)

    @pool.on("a", name="counted")
    def tell_pid(event: Event) -> None:
        bus.notify(Event(event.id, "b", os.getpid()))

    with caplog.at_level(logging.WARNING, "eventbus_mp"), pool:
        bus.notify_many(events(10))
        pids = take(out, 10)
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3, 1]
    assert caplog.records == []


def test_max_rss_recycles_workers(bus: EventBus, out: Inbox) -> None:
    pool = WorkerPool(bus, 1, max_rss_bytes=1)

    @pool.on("a", name="fat")
    def tell_pid(event: Event) -> None:
        bus.notify(Event(event.id, "b", os.getpid()))

    with pool:
        bus.notify_many(events(3))
        assert len(set(take(out, 3))) == 3


def test_sigterm_finishes_one_event_and_returns_the_rest(bus: EventBus, out: Inbox, tmp_path: Path) -> None:
    fifo = str(tmp_path / "go on")
    os.mkfifo(fifo)
    pool = WorkerPool(bus, 1)

    @pool.on("a", name="slow", credit=5)
    def wait_once(event: Event) -> None:
        bus.notify(Event(event.id, "b", [event.data, os.getpid()]))
        if event.data == 0:
            with open(fifo) as file:
                file.read()

    with pool:
        shadows = bus.notify_many(events(5))
        ((_, first_pid),) = take(out, 1)
        os.kill(first_pid, signal.SIGTERM)
        with open(fifo, "w"):
            pass
        rest = take(out, 4)
        bus.drain(timeout_s=20)
    assert [data for data, _ in rest] == [1, 2, 3, 4]
    assert first_pid not in {pid for _, pid in rest}
    assert statistics_of(bus, "slow").completed == 5
    for shadow in shadows:
        assert not [line for line in bus.story(shadow) if "crash" in line or "attempt" in line]


# --- what cannot be ---


def test_a_handler_that_cannot_be_shipped(bus: EventBus) -> None:
    pool = WorkerPool(bus, 1)
    unshippable = (number for number in range(3))
    pool.on("a", name="attached")(lambda event: next(unshippable))
    with pytest.raises(UsageError, match=r"handlers \(attached\) cannot be sent to a forkserver process"):
        pool.start()
    assert pool.pids == []


def hang_if(flag: Path, ready: Path) -> Callable[[Any], None]:
    """What a worker makes of a `HangsAtStart`: with the flag it takes longer than anybody waits."""
    if flag.exists():
        ready.touch()
        pause(600)
    return lambda event: None


class HangsAtStart:
    def __init__(self, folder: Path) -> None:
        self.flag, self.began = folder / "hang", folder / "began"

    def __call__(self, shadow: Any) -> None:
        raise AssertionError

    def __reduce__(self) -> Any:
        return hang_if, (self.flag, self.began)


def test_stop_does_not_wait_for_a_replacement_that_hangs(
    bus: EventBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_mp.worker.supervisor.START_TIMEOUT_S", 100_000.0)  # If it does, this never ends.
    pool, listener = WorkerPool(bus, 1), HangsAtStart(tmp_path)
    pool.subscribe(listener, ["a"])
    with pool:
        listener.flag.touch()
        os.kill(pool.pids[0], signal.SIGKILL)
        while not listener.began.exists():
            bus.topics()
    assert pool.pids == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_is_ready_when_the_pool_was_stopped(bus: EventBus, capfd: pytest.CaptureFixture[str]) -> None:
    """`stop` does not wait for a replacement that starts; the worker leaves without a word."""
    ready, says_ready = multiprocess.Pipe(duplex=False)
    lifeline, _writer = multiprocess.Pipe(duplex=False)
    ready.close()
    spec = HandlerSpec.from_function(print, ["a"], name="printer", credit=1)
    worker = multiprocess.get_context("fork").Process(
        target=run_worker, args=(lifeline, RunningCalls(), WorkerTask(bus, [spec]), says_ready)
    )
    worker.start()
    says_ready.close()
    worker.join(30)
    assert worker.exitcode == 0
    assert capfd.readouterr().err == ""


def test_a_pool_tries_again_when_the_kernel_has_no_process_for_it(
    bus: EventBus, out: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, refusals = WorkerPool(bus, 2), iter([True, True])
    monkeypatch.setattr("eventbus_mp.worker.supervisor.RETRY_S", 0.01)

    @pool.on("a", name="teller")
    def tell_pid(event: Event) -> None:
        bus.notify(Event(event.id, "b", os.getpid()))

    with pool:
        start = pool._supervisor.context.Process.start

        def refuse(worker: Any) -> None:
            if next(refusals, False):
                raise BlockingIOError(11, "Resource temporarily unavailable")
            start(worker)

        monkeypatch.setattr(pool._supervisor.context.Process, "start", refuse)
        os.kill(pool.pids[0], signal.SIGKILL)
        while pool.restarts < 1 or len(pool.pids) < 2:
            bus.topics()
        bus.notify_many(events(4))
        assert set(take(out, 4)) <= set(pool.pids)
    assert caplog.text.count("a worker cannot be replaced: [Errno 11]") == 2


def test_asking_for_pids_does_not_disturb_the_pool(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    pool = WorkerPool(bus, 2, max_events=1)
    pool.on("a", name="one")(lambda event: None)
    with pool:
        bus.notify_many(events(12))
        seen: set[int] = set()
        while bus.statistics().events_unsettled:
            for _ in range(50):
                seen.update(pool.pids)
    assert len(seen) > 2
    assert 0 not in seen
    assert "died" not in caplog.text


def test_a_thread_that_a_handler_left_does_not_keep_the_workers_place(
    make_bus: Make, bus: EventBus, out: Inbox
) -> None:
    pool = WorkerPool(make_bus(stop_timeout_s=0.1), 1, max_events=1)

    @pool.on("a", name="one")
    def leave_a_thread(event: Event) -> None:
        threading.Thread(target=threading.Event().wait, name="left", args=(600,)).start()
        bus.notify(Event(event.id, "b", os.getpid()))

    with pool:
        bus.notify_many(events(2))
        first, second = take(out, 2)
        assert first != second
        assert not Path(f"/proc/{first}").exists()


MODULE_LEVEL = """
    import os, sys
    from eventbus_mp import Event, EventBus, WorkerPool

    bus = EventBus("test", topics=["a", "b"])
    pool = WorkerPool(bus, 2, start_method=os.environ["START_METHOD"])

    @bus.on("b")
    def done(event):
        print(os.getpid() == PARENT, flush=True)

    @pool.on("a")
    def work(event):
        bus.notify(Event(event.id, "b", 1))

    if __name__ == "__main__":
        PARENT = os.getpid()
        with pool:
            for number in range(5):
                bus.notify(Event(str(number), "a", 1))
            bus.drain(timeout_s=20)
            print(sorted(item.name for item in bus.subscribers()))
        bus.shutdown()
"""


@pytest.mark.parametrize("start_method", START_METHODS)
def test_what_a_program_subscribes_at_its_modules_level_stays_the_parents(
    run_dir: Path, tmp_path: Path, start_method: str
) -> None:
    """The fork server and spawned workers import the program, and do not subscribe it again."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(MODULE_LEVEL))
    variables = {**os.environ, "EVENTBUS_MP_RUN_DIR": str(run_dir), "START_METHOD": start_method}
    command = [sys.executable, "-W", "ignore", str(program)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["True"] * 5 + ["['__main__.done', '__main__.work']"]


class FailsAtStart:
    """A listener that travels as a call that fails."""

    def __call__(self, shadow: Any) -> None:
        raise AssertionError

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_a_worker_that_does_not_come_up(bus: EventBus, capfd: pytest.CaptureFixture[str]) -> None:
    pool = WorkerPool(bus, 2)
    pool.subscribe(FailsAtStart(), ["a"])
    with pytest.raises(EventBusError, match="ended with exit code 1 before it was ready"):
        pool.start()
    assert pool.pids == []
