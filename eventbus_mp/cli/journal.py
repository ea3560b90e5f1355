"""`eventbus-mp journal ...`: each module of `_journal` whose name has no underscore in front is a subcommand."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import TYPE_CHECKING

from eventbus_mp.cli import _journal

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("journal", help="store every event in a database, and look at it there")
    subcommands = parser.add_subparsers(required=True, metavar="subcommand")
    names = sorted(module.name for module in pkgutil.iter_modules(_journal.__path__))
    for name in names:
        if not name.startswith("_"):
            module = importlib.import_module(f"{_journal.__name__}.{name}")
            module.add_parser(subcommands).set_defaults(run_journal=module.run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    return int(options.run_journal(options))
