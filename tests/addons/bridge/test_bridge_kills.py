"""Servers that are killed under load; kills.py does it for longer, and for bridges."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.addons.bridge.kills import run


def test_nothing_is_lost_and_nothing_comes_twice_when_the_server_is_killed(tmp_path: Path) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    assert run(tmp_path, "server", 2, 1_000, random.Random(seed)) > 0
