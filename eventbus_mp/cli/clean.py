"""`eventbus-mp clean`: remove what killed buses left behind."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json, add_run_dir
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._text import print_json, shown_count
from eventbus_mp.runtime.rundir import clean_all, clean_homeless

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("clean", help="remove what killed buses left behind")
    add_json(parser)
    add_run_dir(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Remove the files and the shared memory of every bus that has no manager; a running bus is left alone."""
    cleaned = clean_all(run_root(options))
    homeless = clean_homeless()
    if options.json:
        print_json(
            {
                "running": [bus for bus, removed in cleaned.items() if removed is None],
                "removed": {bus: len(removed) for bus, removed in cleaned.items() if removed is not None},
                "segments_of_other_places": len(homeless),
            }
        )
        return Exit.DONE
    for bus, removed in cleaned.items():
        if removed is None:
            print(f"{bus}: running, left alone")
        else:
            print(f"{bus}: removed, with {shown_count(len(removed), 'segment')} of shared memory")
    if homeless:
        print(
            f"removed {shown_count(len(homeless), 'segment')} of shared memory of buses whose directory is elsewhere, "
            "or gone"
        )
    return Exit.DONE
