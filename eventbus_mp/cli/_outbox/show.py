"""`eventbus-mp outbox show`: one event of an outbox, with its data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json, at_least
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._outbox._database import add_db, item_json, opened_outbox
from eventbus_mp.cli._payload import show_event
from eventbus_mp.cli._text import complain, on_one_line, print_json, shown_moment
from eventbus_mp.errors import EventBusError

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("show", help="show one event of the outbox, with its data")
    add_db(parser)
    parser.add_argument("position", type=at_least(1), help="its position, as `outbox list` prints it")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Show it."""
    from eventbus_mp.addons.journal import event_of

    with opened_outbox(options) as store:
        item = store.find(options.position)
    if item is None:
        complain(f"nothing is at position {options.position} of {options.table}; what was published is deleted")
        return Exit.NOT_FOUND
    if options.json:
        print_json(item_json(item))
        return Exit.DONE
    print(f"{'position':<15}{item.position:,}\n{'state':<15}{item.state}")
    print(f"{'added at':<15}{shown_moment(item.row.recorded_ns)}")
    if item.reason is not None:
        print(f"{'reason':<15}{on_one_line(item.reason)}")
    try:
        event = event_of(item.row)
    except (EventBusError, ValueError, TypeError) as error:
        complain(str(error))
        return Exit.FAILED
    return show_event(event)
