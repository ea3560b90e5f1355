"""`python -m benchmarks`: everything side by side in one go."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.peers import BUSES, PEERS, Peer
from benchmarks.report import Report, Result
from eventbus_mp.bench.child import preload
from eventbus_mp.bench.measure import Measurement, measure
from eventbus_mp.bench.topologies import QUICK, TOPOLOGIES, Topology

EVENTS, QUICK_EVENTS = 100_000, 10_000
SECONDS, QUICK_SECONDS = 1.5, 0.3
REPEATS, QUICK_REPEATS = 3, 1
TERMINATED = 143


def main() -> int:
    arguments = _parse()
    preload("benchmarks.peers")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # What was set up is taken down.
    chosen = [peer for peer in PEERS if _matches(peer.name, arguments.peer)]
    patterns = arguments.topology or (QUICK if arguments.quick else None)
    wanted = [topology for topology in TOPOLOGIES if _matches(topology.name, patterns)]
    compared: list[Peer | Topology] = [*chosen, *wanted]
    skipped = {item.name: reason for item in compared if (reason := item.missing())}
    peers = [peer for peer in chosen if peer.name not in skipped]
    topologies = [topology for topology in wanted if topology.name not in skipped]
    failed: dict[str, str] = {}
    results = [result for topology in topologies for result in _compare(topology, peers, arguments, failed)]
    report = Report(results, BUSES, skipped, failed)
    print(report.as_markdown() if arguments.markdown else report.as_text())
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if arguments.plot:
        from benchmarks.plot import draw

        draw(report, arguments.plot)
    return 1 if failed else 0


def _compare(
    topology: Topology, peers: Sequence[Peer], arguments: argparse.Namespace, failed: dict[str, str]
) -> list[Result]:
    """All peers in this topology. They take turns (A B A B), so a busy minute hits them all.

    One that fails is out for this topology, and gets its line in `failed`; the others go on.
    """
    taking_part = [peer for peer in peers if peer.supports(topology.layout, topology.is_latency)]
    runs: dict[str, list[Measurement]] = {peer.name: [] for peer in taking_part}
    for turn in range(1, arguments.repeat + 1):
        for peer in [peer for peer in taking_part if peer.name in runs]:
            _tell(f"{topology.name}, {peer.name}, {turn} of {arguments.repeat}: ")
            try:
                run = measure(peer, topology, arguments.events, arguments.seconds, tell=lambda pids: _tell(f"{pids}: "))
            except Exception as error:
                failed[f"{peer.name} in {topology.name}"] = f"{type(error).__name__}: {error}"
                _tell(f"failed: {error!r}\n")
                del runs[peer.name]
                continue
            runs[peer.name].append(run)
            _tell(f"{_headline(run, topology)}\n")
    return [Result(topology, name, tuple(measured)) for name, measured in runs.items()]


def _headline(run: Measurement, topology: Topology) -> str:
    return f"p50 {run.latencies_us[0]:.0f} us" if topology.is_latency else f"{run.events_per_s:,.0f} events/s"


def _matches(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The bus beside its peers.")
    add = parser.add_argument
    add("--quick", action="store_true", help="a few topologies, fewer events, one repeat: about a minute")
    add("--events", type=_positive, metavar="N", help=f"events a run, at most ({EVENTS:,}; quick: {QUICK_EVENTS:,})")
    add(
        "--seconds", type=float, metavar="S", help=f"a run ends after about so long ({SECONDS}; quick: {QUICK_SECONDS})"
    )
    add("--repeat", type=_positive, metavar="R", help=f"runs of each; the median counts ({REPEATS})")
    add("--markdown", action="store_true", help="print the tables as README.md has them")
    add("--json", metavar="FILE", help="also write the figures to this file")
    add("--plot", metavar="FILE", help="draw them there, as PNG; needs matplotlib")
    add("--topology", action="append", type=_one_of("topology", TOPOLOGIES), help="only this; also a pattern: '*-1MiB'")
    add("--peer", action="append", type=_one_of("peer", PEERS), help="only this; also a pattern: 'bus*'")
    arguments = parser.parse_args()
    arguments.events = arguments.events or (QUICK_EVENTS if arguments.quick else EVENTS)
    arguments.repeat = arguments.repeat or (QUICK_REPEATS if arguments.quick else REPEATS)
    arguments.seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    return arguments


def _one_of(what: str, known: Sequence[Topology | Peer]) -> Callable[[str], str]:
    def pattern(text: str) -> str:
        if not any(fnmatchcase(item.name, text) for item in known):
            raise argparse.ArgumentTypeError(f"no {what} is {text}; there are {', '.join(item.name for item in known)}")
        return text

    return pattern


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
