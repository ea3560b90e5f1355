"""`eventbus-mp clean`: remove what killed buses left behind."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._run_dir import add_run_dir, run_root
from eventbus_mp.runtime.rundir import clean_all, clean_homeless

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("clean", help="remove what killed buses left behind")
    add_run_dir(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Remove the files and the shared memory of every bus that has no manager; a running bus is left alone."""
    for bus, removed in clean_all(run_root(options)).items():
        if removed is None:
            print(f"{bus}: running, left alone")
        else:
            print(f"{bus}: removed, with {len(removed)} segments of shared memory")
    homeless = clean_homeless()
    if homeless:
        print(f"removed {len(homeless)} segments of shared memory of buses whose directory is elsewhere, or gone")
    return 0
