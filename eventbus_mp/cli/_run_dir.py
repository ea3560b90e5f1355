"""What several commands need to find the buses of this user."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from eventbus_mp.runtime.rundir import default_root

__all__ = ["add_run_dir", "run_root"]


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option `--run-dir`."""
    parser.add_argument("--run-dir", help="where the buses are (default: as EVENTBUS_MP_RUN_DIR or the system says)")


def run_root(options: argparse.Namespace) -> Path:
    """The directory that has a directory for each bus."""
    named = options.run_dir or os.environ.get("EVENTBUS_MP_RUN_DIR")
    return Path(named) if named else default_root()
