"""Everything is killed at once, as by a power cut: the next start, and `eventbus-mp clean`, leave nothing of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.cli._text import shown_count
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime.rundir import RunDir

Make = Callable[..., EventBus]
Fork = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("cleans_alone")


@pytest.fixture
def killed_bus(make_bus: Make, run_dir: Path, fork: Fork, kill_bus: Callable[[], None]) -> list[str]:
    """The segments, and the claim on them, of a bus whose every process was killed in the middle of work."""

    def work(to_parent: Any) -> None:
        bus = make_bus(topics=["a"])
        bus.inbox("one", ["a"])
        for number in range(10):
            bus.notify(Event(str(number), "a", bytes(100_000)))
        bus.topics()
        to_parent.send("in the middle")
        to_parent.recv()

    child = fork(work)
    assert child.hear() == "in the middle"
    child.kill()
    kill_bus()
    left = SHARED_MEMORY.leftovers(RunDir(run_dir, "test").segment_prefix)
    assert len(left) >= 2
    return left


def clean(run_dir: Path) -> str:
    command = [sys.executable, "-m", "eventbus_mp", "clean", "--run-dir", str(run_dir)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shown_segments(names: list[str]) -> str:
    """How many of these hold memory; the claim and the socket do not."""
    return shown_count(len(names) - 2, "segment")


def is_gone(names: list[str]) -> bool:
    return not set(names) & set(os.listdir("/dev/shm"))


def test_the_next_start_removes_it(make_bus: Make, killed_bus: list[str]) -> None:
    bus = make_bus(topics=["b"])
    assert bus.topics() == ["b"]
    assert is_gone(killed_bus)


def test_clean_removes_it(run_dir: Path, killed_bus: list[str]) -> None:
    assert clean(run_dir) == f"test: removed, with {shown_segments(killed_bus)} of shared memory\n"
    assert is_gone(killed_bus)
    assert not RunDir(run_dir, "test").path.exists()


def test_clean_removes_it_without_its_run_directory(
    make_bus: Make, run_dir: Path, tmp_path: Path, killed_bus: list[str]
) -> None:
    """And leaves alone a bus that lives, its run directory gone just the same."""
    living = make_bus("other", ["a"])
    inbox = living.inbox("one", ["a"])
    living.notify(Event("1", "a", b"x" * 100_000))
    theirs = SHARED_MEMORY.leftovers(RunDir(run_dir, "other").segment_prefix)
    hidden = run_dir.rename(tmp_path / "hidden")
    said = f"{shown_segments(killed_bus)} of shared memory of buses whose directory is elsewhere"
    assert said in clean(tmp_path / "nowhere")
    assert is_gone(killed_bus)
    assert SHARED_MEMORY.leftovers(RunDir(run_dir, "other").segment_prefix) == theirs
    assert living.fetch_event_data(inbox.get(20)) == b"x" * 100_000  # type: ignore[arg-type]
    os.kill(living.statistics().manager_pid, 9)
    assert living.topics() == ["a"]
    clean(tmp_path / "nowhere")  # The standby has the claim; what it says may be of another run of these tests.
    assert SHARED_MEMORY.leftovers(RunDir(run_dir, "other").segment_prefix) == theirs
    shutil.rmtree(hidden / "test")
    hidden.rename(run_dir)
