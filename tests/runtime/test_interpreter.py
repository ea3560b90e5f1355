"""The Python that runs the manager: which it is, what it imports from where, and what it does not inherit."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus, ManagerLost, UsageError, WorkerPool
from eventbus_mp.runtime.interpreter import manager_command, manager_environment
from eventbus_mp.runtime.rundir import RunDir

Make = Callable[..., EventBus]
PACKAGES = ("eventbus_mp", "msgpack", "filelock", "dill", "multiprocess", "_multiprocess")
PROGRAM = """
import json, sys
sys.path.append(sys.argv[1])  # Last, as site-packages is.
from eventbus_mp import EventBus
bus = EventBus("test", ["a"], run_dir=sys.argv[2], memory_bytes_max=1 << 20, manager_idle_s=0)
print(json.dumps(bus.topics()))
bus.shutdown()
"""


@pytest.mark.parametrize("name", ["uuid", "enum", "pathlib", "typing", "dataclasses", "logging"])
def test_a_package_that_is_called_as_a_module_of_the_standard_library(tmp_path: Path, name: str) -> None:
    """`pip install enum34` harms no program: the standard library comes first."""
    site = tmp_path / "site"
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    (site / f"{name}.py").write_text("raise SyntaxError('of Python 2')\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(site), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["a"]


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", "/usr/sbin/apache2", None])
def test_a_program_that_is_no_python_has_one_beside_it(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    """Python embedded in a server: `sys.executable` is the server, or nothing."""
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.delattr(sys, "_base_executable", raising=False)
    assert make_bus(topics=["a"]).topics() == ["a"]


def test_no_python_at_all_is_said(
    make_bus: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_dir: Path
) -> None:
    """As in a program that was frozen into one file."""
    for name in ("prefix", "base_prefix", "exec_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "program"))
    monkeypatch.delattr(sys, "_base_executable", raising=False)
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: None)
    with pytest.raises(ManagerLost, match=r"no Python was found to run the manager of bus 'test' with: .*program"):
        make_bus().topics()
    RunDir(run_dir, "test").clean()


def test_a_frozen_program_uses_a_bus_that_was_started_before(
    make_bus: Make, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sys.frozen` is how PyInstaller and others say what the program is."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ManagerLost, match=r"this program is frozen, .* \(eventbus-mp serve test\)"):
        make_bus().topics()
    monkeypatch.setattr(sys, "frozen", False)
    served = make_bus(topics=["a", "b"])
    served.topics()
    monkeypatch.setattr(sys, "frozen", True)
    bus = make_bus()
    with pytest.raises(UsageError, match=r"start_method 'forkserver' starts a Python, .* give start_method='fork'"):
        WorkerPool(bus)
    inbox = bus.inbox("one", ["b"])
    pool = WorkerPool(bus, 1, start_method="fork")
    pool.on("a", name="two")(lambda event: bus.notify(Event(event.id, "b", 2 * event.data)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of a fork beside threads.
        with pool:
            bus.notify(Event("1", "a", 4))
            shadow = inbox.get(20)
    assert shadow is not None
    assert bus.fetch_event_data(shadow) == 8
    inbox.complete(shadow)


ZIPPED = """
import sys, warnings
from eventbus_mp import Event, EventBus, EventBusError, WorkerPool

def answer(event):
    bus.notify(Event(event.id, "b", event.data))

bus = EventBus("test", ["a", "b"], run_dir=sys.argv[1], memory_bytes_max=1 << 20, manager_idle_s=0)
if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    inbox = bus.inbox("one", ["b"])
    pool = WorkerPool(bus, 1, start_method=sys.argv[2])
    pool.on("a", name="two")(answer)
    try:
        with pool:
            bus.notify(Event("1", "a", 4))
            shadow = inbox.get(20)
            print(bus.fetch_event_data(shadow))
            inbox.complete(shadow)
    except EventBusError as error:
        print(error)
    bus.shutdown()
"""


@pytest.mark.parametrize(
    ("start_method", "said"),
    [
        ("fork", "4\n"),
        ("forkserver", "the fork server of multiprocess, .* in its zip file: install it .* start_method='fork'\n"),
        ("spawn", "worker .* ended with exit code 1 before it was ready; its own error was printed .*\n"),
    ],
)
def test_a_program_in_a_zip_file_with_all_that_it_needs(
    tmp_path: Path, run_dir: Path, start_method: str, said: str
) -> None:
    """The manager finds its packages there; what multiprocess starts by itself does not."""
    folder = tmp_path / "program"
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "__main__.py").write_text(ZIPPED)
    zipapp.create_archive(folder, tmp_path / "program.pyz")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", str(tmp_path / "program.pyz"), str(run_dir), start_method],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert re.fullmatch(said, done.stdout), done.stdout + done.stderr
    assert done.returncode == 0


def test_the_manager_is_named_in_its_command_line() -> None:
    assert manager_command("test")[1:] == ["-m", "run_manager", "eventbus_mp.manager"]


def test_variables_that_are_meant_for_the_program_stay_with_it(make_bus: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONINSPECT", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert not {"PYTHONINSPECT", "PYTHONWARNINGS"} & manager_environment().keys()
    bus = make_bus(topics=["a"])
    assert bus.topics() == ["a"]
    bus.shutdown()  # Waits for the end of the process.


INHERITED = """
import os, signal, sys
for name in ("SIGCHLD", "SIGTERM", "SIGHUP", "SIGINT"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
from eventbus_mp import EventBus
bus = EventBus("test", ["a"], run_dir=sys.argv[1], memory_bytes_max=1 << 20, manager_idle_s=3600)
pids = []
for _ in range(3):
    EventBus("test", run_dir=sys.argv[1]).topics()  # Each makes the manager fork a standby and wait for the one before.
    pids.append(bus.statistics().manager_pid)
assert len(set(pids)) == 1, pids
print(pids[0], flush=True)
sys.stdin.read()
"""


def test_the_manager_inherits_neither_masks_nor_dispositions(tmp_path: Path, wait_for_end: Callable[..., None]) -> None:
    """A program that takes its signals by `sigwait`, with children that nobody collects."""
    command = [sys.executable, "-c", INHERITED, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        status = Path(f"/proc/{pid}/status").read_text()
        lines = [line.split() for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
        masks = {name.rstrip(":"): int(mask, 16) for name, mask in lines}
        ends = sum(1 << number - 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
        assert not masks["SigBlk"]
        assert masks["SigCgt"] & ends == ends
        assert not masks["SigIgn"] & 1 << signal.SIGCHLD - 1
        os.kill(pid, signal.SIGTERM)
        starter.communicate()
    wait_for_end(pid)
