"""Bridges and servers that are killed under load; kills.py does it for longer."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.addons.bridge.kills import run


@pytest.mark.parametrize(("victim", "kills"), [("bridges", 6), ("server", 2)])
def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path, victim: str, kills: int) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    assert run(tmp_path, victim, kills, 1_000, random.Random(seed)) > 0
