"""What a manager imports: somebody waits while it starts, so nothing that it can do without."""

import subprocess
import sys

import pytest

WITHOUT = (
    "eventbus_mp.aio",
    "eventbus_mp.client",
    "eventbus_mp.memory.codec",
    "eventbus_mp.memory.payload",
    "eventbus_mp.runtime.launch",
    "eventbus_mp.snapshot",
    "eventbus_mp.worker",
    "asyncio",
    "multiprocess",
    "multiprocessing",
    "pickle",
    "sqlite3",
    "subprocess",
    "tempfile",
    "zoneinfo",
)
# What uuid and filelock import is theirs: on Python 3.10 the one has subprocess, and the other asyncio and sqlite3.
PROGRAM = """
import sys
import uuid
from filelock import FileLock
before = {*sys.modules}
import eventbus_mp.manager.__main__
print(*{*sys.modules} - before)
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", WITHOUT)
def test_a_manager_does_without(imported: set[str], name: str) -> None:
    assert name not in imported
