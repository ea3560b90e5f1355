"""`eventbus-mp outbox retry`: have refused events wait again."""

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
    parser = commands.add_parser("retry", help="publish refused events after all, when their cause is gone")
    add_db(parser)
    add_positions(parser, "of refused events, as `outbox list --refused` prints them (default: all)", optional=True)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Have them wait; the relay publishes them."""
    with opened_outbox(options) as store:
        count = store.retry(options.position or None)
    if options.json:
        print_json({"retried": count})
    else:
        print(f"{shown_count(count, 'event')} to be published")
    return Exit.DONE if count == len(set(options.position)) or not options.position else Exit.NOT_FOUND
