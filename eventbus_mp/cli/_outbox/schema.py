"""`eventbus-mp outbox schema`: the statements that make the table, for a migration."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._outbox._database import add_table
from eventbus_mp.cli._text import print_json

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("schema", help="print the statements that make the table")
    parser.add_argument("dialect", choices=("sqlite", "postgresql"), help="of which database")
    add_table(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print them."""
    from eventbus_mp.addons.outbox import schema

    text = schema(options.dialect, options.table)
    if options.json:
        print_json([f"{statement.strip()};" for statement in text.split(";") if statement.strip()])
    else:
        print(text, end="")
    return Exit.DONE
