"""A relay is killed at each step, while processes write: see `kills`, which does it for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.addons.outbox.databases import DATABASES
from tests.addons.outbox.kills import POINTS

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("database", DATABASES)
def test_a_relay_is_killed_at_each_step(database: str, request: pytest.FixtureRequest) -> None:
    where = [] if database == "sqlite" else ["--db", request.getfixturevalue("postgresql_url")]
    command = [sys.executable, "-m", "tests.addons.outbox.kills", "--kills", str(2 * len(POINTS)), *where]
    command += ["--database", database]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    print(done.stdout)  # It has the seed.
    assert done.returncode == 0, done.stderr
    assert ": 0 lost, " in done.stdout
