"""`eventbus-mp status`: the buses that run, or the statistics of one of them as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus_mp.cli._run_dir import add_run_dir, run_root
from eventbus_mp.client.bus import EventBus
from eventbus_mp.runtime import handshake

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("status", help="show a running bus")
    parser.add_argument("bus", nargs="?", help="its name; without one, the buses there are")
    add_run_dir(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List the running buses, or show one; never starts a manager."""
    root = run_root(options)
    running = sorted(path.name for path in root.glob("*") if _answers(path / "socket")) if root.is_dir() else []
    if options.bus is None:
        print("\n".join(running) if running else f"no bus is running below {root}")
        return 0
    if options.bus not in running:
        print(f"eventbus-mp: no bus {options.bus!r} is running below {root}", file=sys.stderr)
        return 1
    with EventBus(options.bus, run_dir=str(root)) as bus:
        print(json.dumps(asdict(bus.statistics()), indent=2, default=str))
    return 0


def _answers(address: Path) -> bool:
    """Whether a manager listens there: a manager that was killed leaves its socket behind."""
    try:
        handshake.connect(address, 1.0).close()
    except OSError:
        return False
    return True
