"""The benchmarks work: every topology, every peer. How fast they are is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = {"bus", "bus-notify-many", "mp.Queue"}
EXPECTED = {
    *((topology, peer) for topology in ("one-to-one", "one-to-four", "two-workers-competing") for peer in PEERS),
    ("one-way-latency", "bus"),
    ("one-way-latency", "mp.Queue"),
}
TIMEOUT_S = 120


def test_every_topology_and_peer_gives_positive_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--events", "500", "--json", str(file)]
    segments_before = set(_segments())
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(_segments()) <= segments_before

    results = json.loads(file.read_text())["results"]
    assert {(entry["topology"], entry["peer"]) for entry in results} == EXPECTED
    assert len(results) == len(EXPECTED)
    for entry in results:
        assert entry["events_per_s"] > 0
        assert entry["deliveries_per_s"] >= entry["events_per_s"]
        assert all(ratio > 0 for ratio in entry["bus_to_peer"].values())
        assert entry["cpu_s"]["producer"] > 0
        assert entry["cpu_s"]["consumer 1"] > 0
        assert entry["topology"] in done.stdout
        if entry["topology"] == "one-way-latency":
            assert 0 < entry["latency_p50_us"] <= entry["latency_p99_us"]


def _environment() -> dict[str, str]:
    """Ours without a setting of the bus that might be in it, and with the package importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_MP_")}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _segments() -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith("ebmp-")]
