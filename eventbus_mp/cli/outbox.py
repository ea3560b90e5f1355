"""`eventbus-mp outbox ...`: each module of `_outbox` whose name has no underscore in front is a subcommand."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import TYPE_CHECKING

from eventbus_mp.cli import _outbox

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("outbox", help="publish what transactions of a database have committed")
    subcommands = parser.add_subparsers(required=True, metavar="subcommand")
    names = sorted(module.name for module in pkgutil.iter_modules(_outbox.__path__))
    for name in names:
        if not name.startswith("_"):
            module = importlib.import_module(f"{_outbox.__name__}.{name}")
            module.add_parser(subcommands).set_defaults(run_outbox=module.run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    return int(options.run_outbox(options))
