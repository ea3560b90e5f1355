"""The run directory: where it is, who may be in it, what is removed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus, EventBusError, ManagerLost
from eventbus_mp.memory.shm import SHARED_MEMORY
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


def test_the_directory_is_private(make_bus: Make, run_dir: Path) -> None:
    (run_dir / "test").mkdir(parents=True, mode=0o755)
    make_bus().topics()
    assert (run_dir / "test").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made(make_bus: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bus = make_bus(run_dir=str(tmp_path / "file" / "run"))
    with pytest.raises(EventBusError, match=r"cannot be created: .*set BusConfig\.run_dir to another one"):
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
        make_bus(connect_timeout_s=5).topics()
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


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_root() == tmp_path / "eventbus_mp"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert default_root() == Path(tempfile.gettempdir()) / f"eventbus_mp-{os.getuid()}"


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
