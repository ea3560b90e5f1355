"""`eventbus-mp bench`: a bus of its own is measured, and nothing stays. How fast it is is no test's business."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import environment, json_output, run, started
from tests.helpers import until

TIMEOUT_S = 60.0
QUICK = ("bench", "--seconds", "0.05")


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it has its directories; short, for the sake of sockets. It is empty afterwards."""
    with tempfile.TemporaryDirectory(prefix="ebmp-test-") as path:
        monkeypatch.setenv("TMPDIR", path)
        yield Path(path)
        # The fork server removes its socket when it notices that the command is gone.
        until(lambda: not os.listdir(path), why_not=lambda: str(os.listdir(path)))


def test_it_measures_and_touches_no_other_bus(run_dir: Path) -> None:
    found = json_output(run_dir, *QUICK)
    assert list(found["measured"]) == ["one-to-one", "one-to-four", "one-to-one-1MiB", "one-way-latency"]
    for figures in found["measured"].values():
        assert figures["deliveries_per_s"] >= figures["events_per_s"] > 0
        assert set(figures["cpu_us"]) == {"producer", "manager", "consumer"}
    latency = found["measured"]["one-way-latency"]
    assert 0 < latency["p50_us"] <= latency["p99_us"]
    assert found["missing"] == {}
    assert not run_dir.exists()


def test_without_numpy_the_arrays_are_left_out(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['numpy'] = None\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "eventbus_mp", *QUICK],
        env=environment(run_dir, PYTHONPATH=paths),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    heads, *rows = done.stdout.splitlines()
    assert heads.split()[:4] == ["measurement", "events/s", "p50", "p99"]
    assert [row.split()[0] for row in rows] == ["one-to-one", "one-to-four", "one-way-latency"]
    assert done.stderr == "eventbus-mp: one-to-one-1MiB was left out: not installed: numpy\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(number: signal.Signals, run_dir: Path, temporary: Path) -> None:
    with started(run_dir, "bench", "--seconds", "30") as command:
        until(lambda: command.poll() is not None or list(temporary.glob("ebmp-bench-*/*/socket")))
        assert command.poll() is None
        command.send_signal(number)
        _, said = command.communicate(timeout=TIMEOUT_S)
    assert (command.returncode, said) == (130, "eventbus-mp: interrupted\n")


def test_a_time_that_is_none_is_refused(run_dir: Path) -> None:
    assert run(run_dir, "bench", "--seconds", "fast").returncode == 2
