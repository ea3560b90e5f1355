"""Short versions of the long runs: the same checks, a few times. `python -m tests.faults.figures` has the long ones."""

import os
from pathlib import Path

from tests.faults.figures import kill_managers, kill_workers, look_for_leaks
from tests.faults.malformed import try_on_core, try_on_manager


def test_workers_are_killed_under_load(run_dir: Path) -> None:
    found = kill_workers(str(run_dir), 10)
    assert (found["lost"], found["leaked_bytes"]) == (0, 0)


def test_managers_are_killed_under_load(run_dir: Path) -> None:
    found = kill_managers(str(run_dir), 5)
    assert (found["lost"], found["twice"]) == (0, 0)


def test_nothing_grows(run_dir: Path) -> None:
    found = look_for_leaks(str(run_dir), 100_000)
    for name, first in found["first"].items():
        allowed = 4_000 if name.endswith("_kb") else 0
        assert found["last"][name] <= first + allowed, f"{name}: {found}"


def test_malformed_frames(run_dir: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"python -m tests.faults.malformed --seed {seed}")
    assert try_on_core(20_000, seed) > 1_000
    try_on_manager(run_dir, 2_000, seed)
