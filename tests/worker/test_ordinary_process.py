"""A worker is, to what its handlers do, an ordinary process: signals, children, threads; and it leaves at once."""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox, WorkerPool
from tests.helpers import pause
from tests.worker.answers import START_METHODS, take

Make = Callable[..., EventBus]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def run_script(code: str, run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = run_dir.parent / "script.py"
    path.write_text(textwrap.dedent(code))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path), str(run_dir), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


KEPT: list[Any] = []
"""What handlers leave open."""


# --- what handlers start ---


def idle() -> None:
    pause(600)


def child_that_is_terminated() -> object:
    child = multiprocessing.get_context("fork").Process(target=idle)
    child.start()
    child.terminate()
    child.join(60)
    return child.exitcode


def forked_child_that_is_interrupted() -> object:
    pid = os.fork()
    if pid == 0:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os._exit(7)
        os._exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def pool_that_is_left_while_it_works() -> object:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply_async(idle)
    return "left"


def program_that_is_sent(number: int) -> object:
    with subprocess.Popen(["sleep", "600"]) as program:
        program.send_signal(number)
        return program.wait(20)


def job_in_another_process() -> object:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        return executor.submit(abs, -5).result(20)


def wakeup_fd_of_a_forked_child() -> object:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, str(signal.set_wakeup_fd(-1)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 10).decode()


CHILDREN: dict[str, tuple[Callable[[], object], object]] = {
    "terminate": (child_that_is_terminated, -signal.SIGTERM),
    "interrupt a fork": (forked_child_that_is_interrupted, 7),
    "leave a pool": (pool_that_is_left_while_it_works, "left"),
    "interrupt a program": (lambda: program_that_is_sent(signal.SIGINT), -signal.SIGINT),
    "terminate a program": (lambda: program_that_is_sent(signal.SIGTERM), -signal.SIGTERM),
    "an executor": (job_in_another_process, 5),
    "wakeup fd": (wakeup_fd_of_a_forked_child, "-1"),
}


@pytest.mark.parametrize("start_method", START_METHODS)
def test_children_behave_as_anywhere_else(bus: EventBus, out: Inbox, start_method: str) -> None:
    pool = WorkerPool(bus, 1, start_method=start_method)

    @pool.on("a", name="one")
    def start(event: Event) -> None:
        bus.notify(Event(event.id, "b", [event.data, CHILDREN[event.data][0]()]))

    with pool:
        bus.notify_many(Event(what, "a", what) for what in CHILDREN)
        answers = dict(take(out, len(CHILDREN)))
    assert answers == {what: expected for what, (_, expected) in CHILDREN.items()}


def test_a_forked_worker_leaves_the_children_of_its_parent_alone(bus: EventBus) -> None:
    child = multiprocessing.get_context("fork").Process(target=idle, daemon=True)
    child.start()
    try:
        pool = WorkerPool(bus, 1, start_method="fork")
        pool.on("a", name="one")(print)
        with pool:
            pass
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_a_pool_of_multiprocessing_ends_with_its_worker(
    bus: EventBus, out: Inbox, wait_for_end: Callable[..., None]
) -> None:
    def start_children() -> None:
        pool = multiprocessing.get_context("fork").Pool(2)
        KEPT.append(pool)
        bus.notify(Event("1", "b", [process.pid for process in pool._pool]))  # type: ignore[attr-defined]

    pool = WorkerPool(bus, 1, initializer=start_children)
    with pool:
        (pids,) = take(out)
    assert len(pids) == 2
    for pid in pids:
        wait_for_end(pid)


# --- threads ---


def test_jobs_of_an_executor_are_done_before_the_worker_has_left(
    make_bus: Make, bus: EventBus, out: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    """And they may use the bus, as jobs that the end of any program waits for."""
    pool = WorkerPool(make_bus(stop_timeout_s=600), 1, start_method="spawn")

    @pool.on("a", name="one")
    def submit(event: Event) -> None:
        executor = ThreadPoolExecutor(1)
        KEPT.append(executor)
        executor.submit(threading.Event().wait, 0.5)  # so that the others wait in its queue
        for number in range(5):
            executor.submit(bus.notify, Event(f"{event.id}-{number}", "b", number))

    with pool:
        bus.notify(Event("1", "a", 1))
        bus.drain("a", timeout_s=20)
    assert take(out, 5) == [0, 1, 2, 3, 4]
    assert capfd.readouterr().err == ""
    assert bus.statistics().links == 2  # of the two handles of this process


# --- the end ---


class Unending:
    """What a handler does that never returns."""

    @staticmethod
    def sleep() -> None:
        select.select([], [], [])

    @staticmethod
    def wait() -> None:
        threading.Event().wait()

    @staticmethod
    def compute() -> None:
        number = 0
        while True:
            number += 1


@pytest.mark.parametrize("what", ["sleep", "wait", "compute"])
def test_a_handler_that_never_returns_is_cut_off_and_its_event_comes_again(
    make_bus: Make, bus: EventBus, out: Inbox, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    pool = WorkerPool(make_bus(stop_timeout_s=0.2), 1, start_method="spawn")

    @pool.on("a", name="endless")
    def begin(event: Event) -> None:
        bus.notify(Event(event.id, "b", os.getpid()))
        getattr(Unending, what)()

    with pool:
        bus.notify(Event("1", "a", 1))
        (pid,) = take(out)
    text = f"worker {pid} is cut off after stop_timeout_s, 0.2 s, with what still runs in it: the handler of endless"
    assert text in capfd.readouterr().err
    inbox = bus.inbox("endless", ["a"])
    shadow = inbox.get(20)
    assert shadow is not None
    assert inbox.attempt(shadow) == 1  # It was not its process that crashed.
    inbox.complete(shadow)


ORPHAN = """
    import os, signal, sys, threading
    from eventbus_mp import Event, EventBus, WorkerPool

    bus = EventBus("test", ["a"], run_dir=os.environ["RUN_DIR"], stop_timeout_s=0.2, manager_idle_s=0.2)
    pool = WorkerPool(bus, 1, start_method=os.environ["START_METHOD"])

    @pool.on("a")
    def handle(event):
        print(os.getpid(), flush=True)
        while True:
            pause(600)

    if __name__ == "__main__":
        pool.start()
        bus.notify(Event("1", "a", 1))
        signal.pause()
"""


@pytest.mark.parametrize("start_method", START_METHODS)
def test_workers_of_a_killed_process_leave_even_while_a_handler_never_returns(
    run_dir: Path, bus: EventBus, wait_for_end: Callable[..., None], start_method: str
) -> None:
    """`bus` ends the bus, whose manager would wait for somebody to take the event."""
    path = run_dir.parent / "script.py"
    path.write_text(textwrap.dedent(ORPHAN))
    variables = {**os.environ, "RUN_DIR": str(run_dir), "START_METHOD": start_method}
    command = [sys.executable, "-W", "ignore", str(path)]
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        wait_for_end(pid)


def test_a_sigterm_handler_of_the_users_does_not_keep_a_worker(
    bus: EventBus, out: Inbox, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = WorkerPool(bus, 1, start_method="spawn")

    @pool.on("a", name="one")
    def take_over(event: Event) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        bus.notify(Event(event.id, "b", 1))

    with pool:
        bus.notify(Event("1", "a", 1))
        take(out)
    assert capfd.readouterr().err == ""


# --- what the pool's program does with its signals ---

SIGNALS = """
    import os, signal, sys, threading
    from eventbus_mp import Event, EventBus, WorkerPool

    def prepare(what):
        if what == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        elif what == "waited for":
            def wait_for_any(*_):
                try:
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
                except ChildProcessError:
                    pass
            signal.signal(signal.SIGCHLD, wait_for_any)
        elif what == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGRTMAX - 8})

    def main(run_dir, start_method, what):
        bus = EventBus("test", ["a", "b"], run_dir=run_dir)
        out = bus.inbox("out", ["b"])
        prepare(what)
        pool = WorkerPool(bus, 1, start_method=start_method)

        @pool.on("a", name="one")
        def answer(event):
            if event.data and not os.fork():
                os.close(1)
                os.close(2)
                os.read(0, 1)  # a child that lives on, with what it has inherited
                os._exit(0)
            bus.notify(Event(event.id, "b", os.getpid()))

        pool.start()
        for number in (1, 0):
            bus.notify(Event(str(number), "a", number))
            shadow = out.get(30)
            pid = bus.fetch_event_data(shadow)
            out.complete(shadow)
            bus.drain(timeout_s=20)
            if number:
                os.kill(pid, signal.SIGKILL)
        restarts = pool.restarts
        pool.stop()
        print(restarts, pool.pids)
        bus.shutdown()

    if __name__ == "__main__":
        main(*sys.argv[1:])
"""


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("what", ["ignored", "waited for", "blocked", "left alone"])
def test_a_dead_worker_is_replaced_whatever_becomes_of_sigchld(run_dir: Path, start_method: str, what: str) -> None:
    done = run_script(SIGNALS, run_dir, start_method, what)
    assert done.stdout == "1 []\n", done.stderr
    # A traceback of ours. With SIGCHLD ignored, CPython 3.12's resource tracker finds no child at the end, and says so.
    assert "/eventbus_mp/" not in done.stderr
    assert "killed" not in done.stderr
