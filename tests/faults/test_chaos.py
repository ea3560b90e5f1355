"""Short chaos: one plan that is always the same, and one that never was before; `-m soak` runs long ones."""

import os
from pathlib import Path

import pytest

from tests.faults.chaos import Chaos


def run(folder: Path, seconds: float, seed: int, *, check_invariants: bool = False) -> None:
    print(f"seed {seed}: python -m tests.faults.chaos --seconds {seconds} --seed {seed}")
    chaos = Chaos(seconds, seed, folder / "chaos", check_invariants=check_invariants)
    assert chaos.run() == [], f"seed {seed}"
    print(chaos.counts, chaos.deaths)


def random_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


@pytest.mark.parametrize("check_invariants", [False, True], ids=["fast", "checked"])
def test_a_fixed_seed(tmp_path: Path, check_invariants: bool) -> None:
    run(tmp_path, 3, 1, check_invariants=check_invariants)


def test_a_random_seed(tmp_path: Path) -> None:
    run(tmp_path, 4, random_seed())


@pytest.mark.soak
@pytest.mark.parametrize("number", range(3))
def test_a_minute(tmp_path: Path, number: int) -> None:
    run(tmp_path, 20, random_seed(), check_invariants=number == 0)
