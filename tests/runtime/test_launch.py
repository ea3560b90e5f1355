"""The manager's start, when the process that started it is gone before it is ready."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgpack

from eventbus_mp import BusConfig, EventBus
from eventbus_mp.runtime.interpreter import manager_command, manager_environment, manager_packages
from eventbus_mp.runtime.rundir import RunDir
from tests.helpers import until

TOLD = manager_packages() + msgpack.packb(BusConfig(manager_idle_s=60).bus_wide())


def start_for_a_dead_process(run_dir: RunDir, log: Path, told: bytes = TOLD) -> None:
    """Start a manager as `start_manager` does; nobody is there to hear that it is ready. It goes on in a child."""
    ready, says_ready = os.pipe()
    os.close(ready)
    command = [*manager_command(run_dir.bus), str(run_dir.root), run_dir.bus, str(says_ready)]
    try:
        with log.open("wb") as output:
            subprocess.run(
                command,
                input=told,
                stdout=output,
                stderr=output,
                pass_fds=[says_ready],
                env=manager_environment(),
                check=True,
                timeout=60,
            )
    finally:
        os.close(says_ready)


def test_it_leaves_and_takes_all_its_files_along(run_dir: Path, tmp_path: Path) -> None:
    found = RunDir(run_dir, "test")
    found.create()
    log = tmp_path / "output"
    start_for_a_dead_process(found, log)
    until(lambda: not found.path.exists())
    assert log.read_text() == ""


def test_it_makes_way_for_the_manager_of_the_next_process(
    run_dir: Path, tmp_path: Path, make_bus: Callable[..., EventBus]
) -> None:
    found = RunDir(run_dir, "test")
    found.create()
    start_for_a_dead_process(found, tmp_path / "output")
    assert make_bus(topics=["a"]).topics() == ["a"]


def test_it_says_nothing_when_it_was_told_nothing(run_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "output"
    start_for_a_dead_process(RunDir(run_dir, "test"), log, told=b"")
    assert log.read_text() == ""
