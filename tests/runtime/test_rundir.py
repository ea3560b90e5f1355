"""The run directory: where it is, who may be in it, what is removed."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, EventBusError, ManagerLost
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime import rundir
from eventbus_mp.runtime.launch import start_manager
from eventbus_mp.runtime.rundir import RunDir, clean_all, default_root

Make = Callable[..., EventBus]


def test_a_path_longer_than_a_unix_address(make_bus: Make, run_dir: Path) -> None:
    long_root = run_dir / ("y" * 120)
    bus = EventBus("test", ["a"], run_dir=str(long_root), manager_idle_s=0, memory_bytes_max=1 << 20)
    assert bus.topics() == ["a"]
    assert len(str(long_root)) > 108
    bus.shutdown()
    assert list(long_root.iterdir()) == []
    long_root.rmdir()


def test_a_relative_path_is_the_same_for_the_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    bus = EventBus("test", ["a"], run_dir="run", manager_idle_s=0, memory_bytes_max=1 << 20)
    assert bus.topics() == ["a"]
    assert (tmp_path / "run" / "test" / "socket").exists()
    bus.shutdown()


FILES = ("manager.lock", "start.lock", "manager.log", "socket")


@pytest.mark.parametrize("gone", [("test",), *((f"test/{name}",) for name in FILES), FILES[:3], FILES], ids=str)
def test_a_living_bus_is_found_whatever_is_removed(make_bus: Make, run_dir: Path, gone: tuple[str, ...]) -> None:
    """As something that tidies up does, or the end of a login. What it cannot remove is the bus's memory."""
    bus = make_bus(topics=["a"])
    inbox = bus.inbox("one", ["a"])
    pid = bus.statistics().manager_pid
    for name in gone:
        path = run_dir / (name if name.startswith("test") else f"test/{name}")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert RunDir(run_dir, "test").clean() in (None, [])
    other = make_bus()
    other.notify(Event("1", "a", 1))
    assert inbox.get(10) == ("a", "1")
    assert other.statistics().manager_pid == pid
    # Somebody may have made the directory again, and it may be the start of the manager after a takeover.
    RunDir(run_dir, "test").create()
    os.kill(pid, signal.SIGKILL)
    assert make_bus().statistics().links == 3
    assert RunDir(run_dir, "test").clean() is None
    bus.shutdown()
    shutil.rmtree(run_dir / "test", ignore_errors=True)


def test_a_second_manager_is_refused_while_the_first_one_lives(make_bus: Make, run_dir: Path) -> None:
    """Started although the bus was not looked for, with the locks of the first one gone."""
    bus = make_bus()
    bus.topics()
    shutil.rmtree(run_dir / "test")
    found = RunDir(run_dir, "test")
    found.create()
    with found.start_lock(0), pytest.raises(ManagerLost, match="lives, although its lock was removed"):
        start_manager(found, bus.config, 20)
    assert bus.topics() == []
    bus.shutdown()
    assert found.clean() == []


def test_a_manager_in_another_shared_memory_is_named(run_dir: Path, make_bus: Make) -> None:
    """As seen from a container that shares the run directory only: the lock is held, and the address leads nowhere."""
    found = RunDir(run_dir, "test")
    found.create()
    found.socket.symlink_to("/dev/shm/ebmp-elsewhere-socket")
    lock = found.manager_lock(0)
    lock.acquire()
    with pytest.raises(ManagerLost, match=r"has another /dev/shm than this process"):
        make_bus().topics()
    lock.release()
    assert found.clean() == []


def test_the_directory_is_private(make_bus: Make, run_dir: Path) -> None:
    (run_dir / "test").mkdir(parents=True, mode=0o755)
    make_bus().topics()
    assert (run_dir / "test").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_directory_that_cannot_be_made(make_bus: Make, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    bus = make_bus(run_dir=str(tmp_path / name), connect_timeout_s=3600)
    with pytest.raises(EventBusError, match=r"cannot be created: .*set BusConfig\.run_dir to another one"):
        bus.topics()


def test_a_directory_whose_name_is_too_long(make_bus: Make, tmp_path: Path) -> None:
    bus = make_bus(run_dir=str(tmp_path / ("x" * 300)))
    with pytest.raises(EventBusError, match=r"bus 'test' cannot be connected to, or started: .*File name too long"):
        bus.topics()


def test_a_directory_of_somebody_else_is_refused(run_dir: Path, tmp_path: Path) -> None:
    run_dir.mkdir()
    (run_dir / "test").symlink_to(tmp_path)
    with pytest.raises(EventBusError, match="is not a directory of user"):
        RunDir(run_dir, "test").create()
    (run_dir / "test").unlink()


def test_a_manager_that_ends_at_once_is_quoted(make_bus: Make, run_dir: Path) -> None:
    found = RunDir(run_dir, "test")
    found.create()
    found.log.write_text("words of an earlier life\n")
    (found.path / "socket").mkdir()  # where the manager must put its socket
    with pytest.raises(ManagerLost, match=r"(?s)ended at once; the end of its log .*Traceback") as caught:
        make_bus(connect_timeout_s=60).topics()
    assert "earlier life" not in str(caught.value)
    (found.path / "socket").rmdir()
    found.clean()


def test_clean(make_bus: Make, run_dir: Path) -> None:
    found = RunDir(run_dir, "test")
    assert clean_all(run_dir) == {}
    bus = make_bus(topics=["a"])
    bus.inbox("one", ["a"])
    assert clean_all(run_dir) == {"test": None}
    name = f"{found.segment_prefix}left-1"
    bus.shutdown()
    found.create()
    SHARED_MEMORY.create(name, 4096)
    assert clean_all(run_dir) == {"test": [name]}
    assert not found.path.exists()


def test_files_of_a_bus_that_is_being_started_stay(run_dir: Path) -> None:
    found = RunDir(run_dir, "test")
    found.create()
    with found.start_lock(0):
        assert found.clean() == []
        assert found.path.exists()
    assert found.clean() == []
    assert not found.path.exists()


NAMES_OF_THE_TEST = itertools.count()


def program(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_RUNTIME_DIR", "TMPDIR", "HOME")}
    kept = {name: value for name, value in kept.items() if not name.startswith("EVENTBUS_MP_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_whatever_the_environment_says_one_name_is_one_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login, a cron job, a service with a directory of its own for temporary files, compose's empty variables."""
    name = f"test-{os.getpid()}-{next(NAMES_OF_THE_TEST)}"
    monkeypatch.delenv("EVENTBUS_MP_RUN_DIR", raising=False)
    with EventBus(name, ["a"], memory_bytes_max=1 << 20) as bus:
        pid = bus.statistics().manager_pid
        code = f"from eventbus_mp import EventBus; print(EventBus({name!r}).statistics().manager_pid)"
        for environment in (
            {},
            {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
            {"TMPDIR": str(tmp_path)},
            {"EVENTBUS_MP_RUN_DIR": "", "EVENTBUS_MP_TTL": "", "EVENTBUS_MP_STRICT": " "},
        ):
            done = program(environment, code)
            assert done.stdout == f"{pid}\n", done.stderr
        assert default_root() == Path(f"/dev/shm/ebmp-{os.getuid()}")
        assert default_root().stat().st_mode & 0o777 == 0o700
        bus.shutdown()
    assert not (default_root() / name).exists()


def test_a_default_root_of_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Anybody can make a directory of any name in /dev/shm."""
    monkeypatch.setattr(rundir, "default_root", lambda: tmp_path / "link")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EventBusError, match=r"link is not a directory of user .*set BusConfig\.run_dir to another one"):
        RunDir(None, "test").create()


def test_the_home_directory_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDir("~/run", "test").path == tmp_path / "run" / "test"


@pytest.mark.parametrize(("owner", "step"), [(Path, "is_dir"), (os, "lstat")], ids=["while it is made", "after that"])
def test_a_manager_that_leaves_takes_the_directory_just_then(
    make_bus: Make, run_dir: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    found, look = RunDir(run_dir, "test"), getattr(owner, step)
    removed: list[Path] = []

    def look_when_it_is_gone(path: Any, *arguments: Any, **settings: Any) -> Any:
        if path == found.path and not removed:
            os.rmdir(path)
            removed.append(path)
        return look(path, *arguments, **settings)

    found.create()
    monkeypatch.setattr(owner, step, look_when_it_is_gone)
    assert make_bus(topics=["a"]).topics() == ["a"]
    assert removed
