"""gevent makes greenlets of threads, by default in a worker of gunicorn's that has the program from its parent."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.programs import ROOT
from tests.test_examples import environment

PROGRAM = Path(__file__).with_name("gevent_late.py")
TIMEOUT_S = 60

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None,
    reason="gevent is not installed; pip install '.[servers]' brings it",
)


def run(how: str, run_dir: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROGRAM), how, str(run_dir)]
    env = environment(run_dir)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("connect_at_once", "1 link"),
        ("handle", "0 1 2"),
        ("settle_by_hand", "drained"),
        ("wait_side_by_side", "3 completed"),
        ("look_with_instruments", "0 1 2"),
    ],
)
def test_the_bus_works_when_gevent_comes_after_its_import(how: str, said: str, run_dir: Path) -> None:
    done = run(how, run_dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")


def test_a_handle_that_was_connected_before_gevent_came_says_what_to_do(run_dir: Path) -> None:
    done = run("connected", run_dir)
    assert done.returncode == 1
    assert "use the bus after monkey.patch_all(): with gunicorn's gevent workers in the hook post_worker_init" in (
        done.stderr
    )
