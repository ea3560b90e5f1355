"""The benchmarks work: every peer that is installed, in every topology. How fast they are is no test's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.peers import BUSES, PEERS
from benchmarks.peers.iceoryx import PREFIX
from eventbus_mp.bench.payloads import MIB
from eventbus_mp.bench.topologies import TOPOLOGIES

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 100
EVENTS = 100
TWINS = {"two-workers-competing", "one-to-one-1MiB", "latency-under-load"}
CHOSEN = [item for item in TOPOLOGIES if item.payload.array_bytes in (0, MIB) and item.name not in TWINS]
"""The others differ from one of these in nothing but a number, and in the time that they take."""


@pytest.mark.parametrize("name", [peer.name for peer in PEERS])
def test_a_peer_does_the_work_of_each_topology_that_it_supports(name: str, tmp_path: Path) -> None:
    figures, printed = _run(
        "benchmarks", tmp_path, ["--events", str(EVENTS), "--repeat", "1", "--peer", name, *_chosen()]
    )
    if name in figures["skipped"]:
        assert figures["skipped"][name] in printed
        assert name not in BUSES
        pytest.skip(figures["skipped"][name])

    peer = next(peer for peer in PEERS if peer.name == name)
    supported = {item.name for item in CHOSEN if peer.supports(item.layout, item.is_latency)}
    assert figures["failed"] == {}
    assert {entry["topology"] for entry in figures["results"]} == supported - set(figures["skipped"])
    for entry in figures["results"]:
        assert entry["topology"] in printed
        assert entry["deliveries_per_s"] >= entry["events_per_s"] > 0
        assert bool(entry["bus_to_peer"]) == (name in BUSES)
        assert "producer 1" in entry["cpu_s"]
        assert "consumer 1" in entry["cpu_s"]


def test_the_bus_is_compared_with_a_peer(tmp_path: Path) -> None:
    arguments = ["--events", "100", "--repeat", "1", "--topology", "one-to-one", "--peer", "bus", "--peer", "mp.Queue"]
    figures, printed = _run("benchmarks", tmp_path, [*arguments, "--markdown"])
    bus, queue = figures["results"]
    assert bus["bus_to_peer"] == [1.0]
    assert queue["bus_to_peer"] == [pytest.approx(bus["events_per_s"] / queue["events_per_s"])]
    assert "| one-to-one | mp.Queue |" in printed


def test_figures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="not installed: matplotlib")
    picture = tmp_path / "figures.png"
    arguments = ["--events", "100", "--repeat", "1", "--peer", "bus", "--peer", "bus-WorkerPool"]
    topologies = ["--topology", "one-to-one", "--topology", "one-way-latency", "--topology", "cpu-pool"]
    _run("benchmarks", tmp_path, [*arguments, *topologies, "--plot", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_scale_gives_a_table_for_each_case(tmp_path: Path) -> None:
    sizes = ["--events", "200", "--backlog", "1000", "--long-run", "1000"]
    figures, _ = _run("benchmarks.scale", tmp_path, ["--quick", *sizes])
    tables = figures["tables"]
    assert list(tables) == [
        "backlog",
        "arrival",
        "topics",
        "endpoints",
        "subscribers",
        "connecting",
        "idle",
        "long-run",
    ]
    for rows in tables.values():
        assert rows
        # What an event adds to the manager's memory is the difference of two looks: of so few events it is noise.
        values = [value for row in rows for name, value in row.items() if not name.startswith("manager bytes")]
        assert all(value >= 0 for value in values)


def test_journal_and_replay_are_measured_beside_the_bus_without_them(tmp_path: Path) -> None:
    arguments = ["--events", "5000", "--repeat", "1", "--directory", str(tmp_path)]
    figures, printed = _run("benchmarks.journal", tmp_path, arguments)
    assert list(figures["rows"]) == ["inbox", "journal", "sqlite3", "notify_many", "replay"]
    for name, row in figures["rows"].items():
        assert f"{row['events/s']:,.0f}" in printed
        assert (row["manager us"] > 0) == (name != "sqlite3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "said.txt"]


def _chosen() -> list[str]:
    return [argument for topology in CHOSEN for argument in ("--topology", topology.name)]


def _run(module: str, tmp_path: Path, arguments: list[str]) -> tuple[dict, str]:
    """What it wrote as JSON, and what it printed. It has left nothing."""
    file, said = tmp_path / "figures.json", tmp_path / "said.txt"
    command = [sys.executable, "-m", module, "--json", str(file), *arguments]
    # Its sockets need a short path. A pipe for its output would be kept open by whatever a failed run leaves.
    with tempfile.TemporaryDirectory(prefix="ebmp-test-") as temporary, said.open("w") as output:
        environment = {**_environment(), "TMPDIR": temporary}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            assert process.wait(TIMEOUT_S) == 0, said.read_text()
        finally:
            process.kill()
            process.wait()
        assert os.listdir(temporary) == []
    assert list(Path("/dev/shm").glob(f"{PREFIX}{process.pid}-*")) == []
    return json.loads(file.read_text()), said.read_text()


def _environment() -> dict[str, str]:
    """Ours without a setting of the bus that might be in it, and with the package importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_MP_")}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}
