"""`eventbus-mp outbox discard`: delete refused events."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._outbox._database import add_db, add_positions, opened_outbox
from eventbus_mp.cli._text import print_json, shown_count

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("discard", help="delete refused events, which are lost by it")
    add_db(parser)
    add_positions(parser, "of refused events, as `outbox list --refused` prints them")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Delete them; what was not refused stays."""
    with opened_outbox(options) as store:
        count = store.discard(options.position)
    if options.json:
        print_json({"discarded": count})
    else:
        print(f"{shown_count(count, 'event')} deleted")
    return Exit.DONE if count == len(set(options.position)) else Exit.NOT_FOUND
