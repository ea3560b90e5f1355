"""`eventbus-mp bench`: how fast the bus is on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from typing import TYPE_CHECKING, Any

from eventbus_mp import __version__
from eventbus_mp.cli._arguments import add_json, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._text import complain, print_json, print_table, shown_seconds
from eventbus_mp.errors import EventBusError

if TYPE_CHECKING:
    from eventbus_mp.bench.measure import Measurement
    from eventbus_mp.bench.topologies import Topology
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]

MEASURED = ("one-to-one", "one-to-four", "one-to-one-1MiB", "one-way-latency")
EVENTS_MAX = 100_000
SECONDS_MIN = 0.05
PARTS = ("producer", "manager", "consumer")


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("bench", help="measure how fast the bus is on this machine")
    parser.add_argument(
        "--seconds", type=seconds, default=0.5, metavar="S", help="of each measurement, about (default: 0.5)"
    )
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Measure a bus of its own, in a directory of its own; it ends with the command, and no other bus is touched."""
    from eventbus_mp.bench.topologies import TOPOLOGIES

    for number in (signal.SIGTERM, signal.SIGHUP):  # What was started ends, as at Ctrl-C.
        signal.signal(number, signal.default_int_handler)
    chosen = [topology for topology in TOPOLOGIES if topology.name in MEASURED]
    missing = {topology.name: reason for topology in chosen if (reason := topology.missing())}
    measured = {
        topology.name: _measure(topology, max(options.seconds, SECONDS_MIN))
        for topology in chosen
        if topology.name not in missing
    }
    if options.json:
        print_json(
            {
                "version": __version__,
                "python": platform.python_version(),
                "cores": len(os.sched_getaffinity(0)),
                "missing": missing,
                "measured": {name: _as_dict(figures) for name, figures in measured.items()},
            }
        )
        return Exit.DONE
    print_table(
        ("measurement", "events/s", "p50", "p99", *(f"CPU of {part}" for part in PARTS)),
        [_cells(name, figures) for name, figures in measured.items()],
    )
    for name, reason in missing.items():
        complain(f"{name} was left out: {reason}")
    return Exit.DONE


def _measure(topology: Topology, seconds: float) -> Measurement:
    """One measurement.

    Raises:
        EventBusError: It failed, or the machine is too busy for it.
    """
    from eventbus_mp.bench.bus import BusPeer
    from eventbus_mp.bench.measure import measure

    if sys.stderr.isatty():
        print(f"measuring {topology.name} ...", file=sys.stderr)
    events_max = int(topology.events_per_s * seconds) if topology.is_latency else EVENTS_MAX
    try:
        return measure(BusPeer("bus"), topology, max(events_max, 1), seconds, tell=lambda pids: None)
    except (TimeoutError, RuntimeError) as error:
        raise EventBusError(f"{topology.name} could not be measured: {error}; is the machine very busy?") from error


def _cells(name: str, figures: Measurement) -> tuple[str | None, ...]:
    cpu = _cpu_us(figures)
    return (
        name,
        f"{figures.events_per_s:,.0f}",
        *([shown_seconds(us / 1e6) for us in figures.latencies_us[:2]] or (None, None)),
        *(shown_seconds(cpu[part] / 1e6) for part in PARTS),
    )


def _as_dict(figures: Measurement) -> dict[str, Any]:
    p50_us, p99_us = figures.latencies_us[:2] or (None, None)
    return {
        "events": figures.events,
        "seconds": figures.elapsed_s,
        "events_per_s": figures.events_per_s,
        "deliveries_per_s": figures.deliveries_per_s,
        "p50_us": p50_us,
        "p99_us": p99_us,
        "cpu_us": _cpu_us(figures),
    }


def _cpu_us(figures: Measurement) -> dict[str, float]:
    """For each event; of all consumers together."""
    return {
        part: sum(cpu_s for name, cpu_s in figures.cpu_s.items() if name.startswith(part)) / figures.events * 1e6
        for part in PARTS
    }
