"""The end of a process that has handlers or shadows: what goes back, and how long what runs may go on."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus, EventBusError, lifecycle

Make = Callable[..., EventBus]

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

ENDLESS = """
    import sys, threading
    from eventbus_mp import Event, EventBus

    bus = EventBus("test", ["a"], run_dir=sys.argv[1], exit_timeout_s=0.1)
    runs = threading.Event()

    @bus.on("a", name="endless")
    def handle(event):
        runs.set()
        threading.Event().wait()

    bus.notify(Event("1", "a", 1))
    runs.wait(20)
"""


def run(code: str, run_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_handler_that_runs_is_cut_off_in_the_end_and_that_is_said(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    done = run(ENDLESS, run_dir)
    assert done.returncode == 0
    assert "the handler of endless still runs after exit_timeout_s, 0.1 s" in done.stderr
    inbox = bus.inbox("endless", ["a"])
    shadow = inbox.get(20)
    assert shadow is not None
    assert inbox.attempt(shadow) == 1
    inbox.complete(shadow)


# --- os._exit ---


@pytest.mark.parametrize("package", ["os", "multiprocessing"])
def test_a_process_that_ends_well_hands_back_what_it_has(bus: EventBus, make_bus: Make, package: str) -> None:
    """However often: no end of these is a crash."""
    bus.inbox("one", ["a"]).close(keep=True)
    bus.notify(Event("1", "a", 1))

    def work() -> None:
        shadow = make_bus().inbox("one", ["a"]).get(20)
        assert shadow == ("a", "1")

    for _ in range(4):
        if package == "os":
            pid = os.fork()
            if pid == 0:
                work()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        else:
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join()
            assert child.exitcode == 0
    inbox = bus.inbox("one", ["a"])
    shadow = inbox.get(20)
    assert shadow is not None
    assert inbox.attempt(shadow) == 1
    inbox.complete(shadow)


@pytest.mark.parametrize("code", [0, 5])
def test_an_end_in_the_middle_of_a_handler_is_a_crash(bus: EventBus, make_bus: Make, code: int) -> None:
    """Or an event that ends its process would come again for ever."""
    bus.inbox("one", ["a"]).close(keep=True)
    bus.notify(Event("1", "a", 1))
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            make_bus().on("a", name="one")(lambda event: os._exit(code))
            threading.Event().wait()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
    bus.drain(timeout_s=20)
    (found,) = bus.statistics().subscribers
    assert "its process crashed 3 times" in found.recent_skips[0][1]


def test_another_code_than_0_is_a_crash_if_something_is_in_hand(bus: EventBus, make_bus: Make) -> None:
    bus.inbox("one", ["a"]).close(keep=True)
    bus.notify(Event("1", "a", 1))
    pid = os.fork()
    if pid == 0:
        os._exit(1 if make_bus().inbox("one", ["a"]).get(20) is not None else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    inbox = bus.inbox("one", ["a"])
    shadow = inbox.get(20)
    assert shadow is not None
    assert inbox.attempt(shadow) == 2
    inbox.complete(shadow)


def test_a_child_of_a_package_that_knows_no_parents_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of billiard, which Celery uses."""
    process, util = types.ModuleType("billiard.process"), types.ModuleType("billiard.util")
    registered: list[object] = []
    vars(process)["current_process"] = lambda: types.SimpleNamespace(_parent_pid=1)
    vars(util)["Finalize"] = lambda *arguments, **named: registered.append(arguments)
    monkeypatch.setitem(sys.modules, "billiard.process", process)
    monkeypatch.setitem(sys.modules, "billiard.util", util)
    monkeypatch.setattr(lifecycle, "_ready_pid", 0)
    lifecycle.run_exit_hooks_in_child()
    assert len(registered) == 1


PRELOADED = """
    import multiprocessing, os, sys, time
    from eventbus_mp import Event, EventBus

    def tell(to_parent):
        import consumers
        to_parent.send([consumers.found, os.getpid()])

    if __name__ == "__main__":
        bus = EventBus("test", ["a"], run_dir=os.environ["RUN_DIR"])
        bus.topics()
        multiprocessing.set_forkserver_preload(["consumers"])
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("forkserver").Process(target=tell, args=(there,))
        child.start()
        found, pid = here.recv()
        child.join()
        print(found["pid"] == pid, [item.name for item in bus.subscribers()])
        bus.shutdown()
"""

CONSUMERS = """
    import os
    from eventbus_mp import EventBus

    bus = EventBus("test", run_dir=os.environ["RUN_DIR"])
    found = {"pid": os.getpid()}

    @bus.on("a", name="preloaded")
    def handle(event):
        print("handled")
"""


def test_a_fork_server_does_not_subscribe_what_it_imports_in_advance(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "consumers.py").write_text(textwrap.dedent(CONSUMERS))
    (tmp_path / "program.py").write_text(textwrap.dedent(PRELOADED))
    variables = {**os.environ, "RUN_DIR": str(run_dir), "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "program.py")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("False []\n", "")


# --- a thread that cannot be started ---


def test_without_a_thread_nothing_is_subscribed(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus.topics()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def handle(event: Event) -> None:
        """Done at once."""

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EventBusError, match="cannot start the thread for the handlers of bus 'test': can't start"):
            bus.on("a", name="one")(handle)
        assert bus.subscribers() == []
        with pytest.raises(EventBusError, match="cannot start the thread"):
            bus.inbox("two", ["b"]).fileno()
    bus.on("a", name="one")(handle)
    bus.notify(Event("1", "a", 1))
    bus.drain(timeout_s=20)
    assert bus.inbox("two", ["b"]).fileno() > 0
