"""The two locks of a bus: who has them, who gets them next, and what they do to the process that takes one."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus
from eventbus_mp.runtime.filelocks import held_for_life, held_while_starting

Fork = Callable[..., Any]


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_while_starting(path, 0), pytest.raises(TimeoutError, match="has been locked"):
        held_while_starting(path, 0.05).__enter__()
    with held_while_starting(path, 0):
        assert path.stat().st_mode & 0o777 == 0o600


def test_both_kinds_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_while_starting(path, 0), pytest.raises(TimeoutError):
        held_for_life(path, 0).acquire()
    with held_for_life(path, 0), pytest.raises(TimeoutError):
        held_while_starting(path, 0).__enter__()


def test_a_lock_on_a_file_that_was_removed_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_while_starting(path, 0):
        path.unlink()
        with held_while_starting(path, 0):
            assert path.exists()


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        held_while_starting(tmp_path / "missing" / "lock", 5).__enter__()


def test_a_child_that_was_forked_meanwhile_does_not_keep_it(tmp_path: Path, fork: Fork) -> None:
    """The one that had it is killed; the child of it that lives on holds nothing."""
    path = tmp_path / "lock"

    def hold_and_fork(to_parent: Any) -> None:
        with held_while_starting(path, 0):
            if os.fork() == 0:
                to_parent.send(os.getpid())
                os.read(holding, 1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    holding, release_in_flight = os.pipe()
    child = fork(hold_and_fork)
    grandchild = os.pidfd_open(child.hear())
    child.wait()
    with held_while_starting(path, 20):
        os.write(release_in_flight, b"x")
    for fd in (grandchild, holding, release_in_flight):
        os.close(fd)


def test_users_processes_may_fork_in_many_threads(bus: EventBus, run_dir: Path) -> None:
    """filelock 4 refuses that where it has been imported, so neither connecting nor starting a manager imports it."""
    code = """
        import os, sys, threading
        from eventbus_mp import Event, EventBus, WorkerPool
        for name in ("test", "another"):
            bus = EventBus(name, ["a"], run_dir=sys.argv[1])
            bus.inbox("one", ["a"])
            bus.notify(Event("1", "a", 1))
        assert "filelock" not in sys.modules
        failures = []
        def fork():
            for _ in range(20):
                try:
                    pid = os.fork()
                except RuntimeError as error:
                    failures.append(error)
                    continue
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
        threads = [threading.Thread(target=fork) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures, failures
        bus.shutdown()
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), str(run_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
