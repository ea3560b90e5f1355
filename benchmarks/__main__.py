"""`python -m benchmarks`: everything side by side in one go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Measurement, measure
from benchmarks.peers import PEERS, Peer
from benchmarks.report import Result, as_json, as_text
from benchmarks.topologies import TOPOLOGIES, Topology

EVENTS, QUICK_EVENTS = 100_000, 20_000
PACED_EVENTS_MAX, QUICK_PACED_EVENTS_MAX = 3_000, 500
REPEATS, QUICK_REPEATS = 5, 1


def main() -> int:
    arguments = _parse()
    names = arguments.peer or [peer.name for peer in PEERS]
    chosen = [peer for peer in PEERS if peer.name in names]
    skipped = {peer.name: reason for peer in chosen if (reason := peer.missing())}
    peers = [peer for peer in chosen if peer.name not in skipped]
    topologies = [item for item in TOPOLOGIES if item.name in (arguments.topology or [item.name])]
    results = [result for topology in topologies for result in _compare(topology, peers, arguments)]
    print(as_text(results, PEERS[0].name, skipped))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(as_json(results, PEERS[0].name, skipped), indent=2) + "\n")
    return 0


def _compare(topology: Topology, peers: Sequence[Peer], arguments: argparse.Namespace) -> list[Result]:
    """All peers in this topology. They take turns (A B A B), so a busy minute hits them all."""
    taking_part = [peer for peer in peers if peer.paced or not topology.is_latency]
    events = min(arguments.events, arguments.paced_events_max) if topology.is_latency else arguments.events
    runs: dict[str, list[Measurement]] = {peer.name: [] for peer in taking_part}
    for turn in range(1, arguments.repeat + 1):
        for peer in taking_part:
            _tell(f"{topology.name}, {peer.name}, {turn} of {arguments.repeat}: ")
            run = measure(peer, topology, events, tell=lambda pids: _tell(f"{pids}: "))
            runs[peer.name].append(run)
            _tell(f"{_headline(run, topology)}\n")
    return [Result(topology, name, tuple(measured)) for name, measured in runs.items()]


def _headline(run: Measurement, topology: Topology) -> str:
    return f"p50 {run.latency_p50_us:.0f} us" if topology.is_latency else f"{run.events_per_s:,.0f} events/s"


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The bus beside its peers.")
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer events and one repeat: seconds instead of minutes")
    add("--events", type=_positive, metavar="N", help=f"events a run ({EVENTS:,}; quick: {QUICK_EVENTS:,})")
    add("--repeat", type=_positive, metavar="R", help=f"runs of each; the median counts ({REPEATS})")
    add("--json", metavar="FILE", help="write the figures there, too")
    add("--topology", action="append", choices=[topology.name for topology in TOPOLOGIES], help="only this")
    add("--peer", action="append", choices=[peer.name for peer in PEERS], help="only this")
    arguments = parser.parse_args()
    arguments.events = arguments.events or (QUICK_EVENTS if arguments.quick else EVENTS)
    arguments.repeat = arguments.repeat or (QUICK_REPEATS if arguments.quick else REPEATS)
    arguments.paced_events_max = QUICK_PACED_EVENTS_MAX if arguments.quick else PACED_EVENTS_MAX
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
