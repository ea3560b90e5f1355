"""Worker pools: how they end, and what ends with them."""

import ctypes
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import multiprocess
import pytest

from eventbus_mp import Event, EventBus, WorkerPool
from eventbus_mp.worker.running_calls import RunningCalls
from eventbus_mp.worker.worker import READY, WorkerTask, run_worker

START_METHODS = ("fork", "forkserver", "spawn")


def script(code: str, run_dir: Path) -> list[str]:
    """The command that runs a program of its own, with its run directory as the argument."""
    path = run_dir.parent / "script.py"
    path.write_text(textwrap.dedent(code))
    return [sys.executable, "-W", "ignore::DeprecationWarning", str(path), str(run_dir)]


def run_script(code: str, run_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(script(code, run_dir), capture_output=True, text=True, timeout=60, check=False)


PARENT = """
    import os, signal, sys
    from eventbus_mp import EventBus, WorkerPool

    if __name__ == "__main__":
        bus = EventBus("test", ["a"], run_dir=sys.argv[1], memory_bytes_max=16 << 20, manager_idle_s=0.5)
        pool = WorkerPool(bus, 2, start_method=sys.argv[2])
        pool.on("a", name="nothing")(lambda event: None)
        with pool:
            print(*pool.pids, flush=True)
            signal.pause()
"""


@pytest.mark.parametrize("start_method", START_METHODS)
def test_workers_leave_when_their_parent_is_killed(
    run_dir: Path, wait_for_end: Callable[..., None], start_method: str
) -> None:
    with subprocess.Popen([*script(PARENT, run_dir), start_method], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    for pid in pids:
        wait_for_end(pid)


NEVER_STOPPED = """
    import os
    from eventbus_mp import Event, EventBus, WorkerPool

    bus = EventBus("test", topics=["a"])
    pool = WorkerPool(bus, 2, start_method=os.environ["START_METHOD"])

    @pool.on("a")
    def handle(event):
        pass

    if __name__ == "__main__":
        pool.start()
        bus.notify_and_wait(Event("1", "a", 1))
"""


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_pool_that_nobody_stops_ends_with_its_program(run_dir: Path, bus: EventBus, start_method: str) -> None:
    bus.topics()
    # By variables: a fork server imports the program without its arguments.
    variables = {**os.environ, "EVENTBUS_MP_RUN_DIR": str(run_dir), "START_METHOD": start_method}
    assert subprocess.run(script(NEVER_STOPPED, run_dir), env=variables, timeout=60, check=False).returncode == 0
    assert bus.statistics().links == 1


def test_a_forked_child_leaves_its_parent_s_pool_alone(bus: EventBus, fork: Callable[..., Any]) -> None:
    """Even if a `with` block ends in the child, as it does when the child exits by an exception."""
    pool = WorkerPool(bus, 1)
    pool.on("a", name="one")(lambda event: None)
    with pool:

        def leave(to_parent: Any) -> None:
            pool.stop()
            assert pool.pids == []
            to_parent.send("left")

        assert fork(leave).hear() == "left"
        assert len(pool.pids) == 1
        assert bus.notify_and_wait(Event("1", "a", 1), timeout_s=20).completers
    assert pool.restarts == 0


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_forked_child_of_the_pools_process_ends_quietly(run_dir: Path, start_method: str) -> None:
    code = f"""
        import os, sys
        from eventbus_mp import Event, EventBus, WorkerPool

        def main():
            bus = EventBus("test", ["a"], run_dir=sys.argv[1])
            pool = WorkerPool(bus, 1, start_method={start_method!r})
            pool.on("a", name="one")(lambda event: None)
            with pool:
                pid = os.fork()
                if pid == 0:
                    sys.exit(7)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
            bus.shutdown()
            print(code)

        if __name__ == "__main__":
            main()
    """
    done = run_script(code, run_dir)
    assert done.stdout == "7\n"
    # On CPython 3.12 multiprocess's resource tracker complains in any forked child that it is not the child's child.
    assert [line for line in done.stderr.splitlines() if "Error" in line and "ChildProcessError" not in line] == []


@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_a_child_of_multiprocessing_ends_with_its_pool(run_dir: Path, package: str) -> None:
    code = f"""
        import sys
        import {package} as processes
        from eventbus_mp import Event, EventBus, WorkerPool

        def work(run_dir):
            bus = EventBus("test", ["a"], run_dir=run_dir)
            pool = WorkerPool(bus, 1)
            pool.on("a", name="one")(lambda event: None)
            pool.start()
            bus.notify_and_wait(Event("1", "a", 1), timeout_s=20)
            print(len(pool.pids), flush=True)

        if __name__ == "__main__":
            child = processes.get_context("spawn").Process(target=work, args=(sys.argv[1],))
            child.start()
            child.join()
            EventBus("test", run_dir=sys.argv[1]).shutdown()
            print(child.exitcode)
    """
    done = run_script(code, run_dir)
    assert (done.stdout, done.stderr) == ("1\n0\n", "")


def test_a_stop_that_is_interrupted_can_be_called_again(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(bus, 1)
    pool.on("a", name="one")(lambda event: None)
    pool.start()
    pids = pool.pids
    monitor = pool._supervisor.monitor
    assert monitor is not None

    def join() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor, "join", join)
    with pytest.raises(KeyboardInterrupt):
        pool.stop()
    pool.stop()
    assert pool.pids == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    pool.stop()  # harmless


def test_workers_leave_with_a_parent_whose_other_children_live(run_dir: Path) -> None:
    code = """
        import os, signal, sys
        from eventbus_mp import EventBus, WorkerPool

        if __name__ == "__main__":
            bus = EventBus("test", ["a"], run_dir=sys.argv[1])
            pool = WorkerPool(bus, 1)
            pool.on("a", name="one")(lambda event: None)
            pool.start()
            if os.fork() == 0:
                os.close(1)
                os.read(0, 1)
                os._exit(0)
            print(*pool.pids, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with subprocess.Popen(script(code, run_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = os.pidfd_open(int(process.stdout.readline()))
        assert select.select([worker], [], [], 20)[0] == [worker]
        os.close(worker)


class SignalledPoll:
    """Just before the kernel waits, and after the interpreter has looked for signals, one comes."""

    def __init__(self, poll: Any) -> None:
        self._poll = poll
        self.register, self.unregister = poll.register, poll.unregister

    def poll(self, timeout_ms: float | None) -> Any:
        terminate = partial(ctypes.CDLL(None).kill, os.getpid(), signal.SIGTERM)
        # In one step of the interpreter.
        return list(map(partial.__call__, (terminate, partial(self._poll.poll, timeout_ms))))[1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_signal_that_comes_just_before_the_wait(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler runs after the wait. So it has to end the wait, or `stop` would wait until the next event."""

    def interfere(leaving: Any, pid: int) -> None:
        transport = leaving._session.connection.transport
        transport._poll = SignalledPoll(transport._poll)

    monkeypatch.setattr("eventbus_mp.worker.leaving.Leaving.with_process", interfere)
    ready, says_ready = multiprocess.Pipe(duplex=False)
    lifeline, _writer = multiprocess.Pipe(duplex=False)
    worker = multiprocess.get_context("fork").Process(
        target=run_worker, args=(lifeline, RunningCalls(), WorkerTask(bus, []), says_ready)
    )
    worker.start()
    says_ready.close()
    assert ready.recv_bytes().startswith(READY)
    worker.join(20)
    code = worker.exitcode
    worker.kill()
    worker.join()
    ready.close()
    assert code == 0
