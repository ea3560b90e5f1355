"""`eventbus-mp journal show`: one stored event, with its data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._event import add_event, event_of
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._select import entry_json
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._payload import show_event
from eventbus_mp.cli._text import complain, print_json, shown_moment

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("show", help="show one stored event, with its data")
    add_event(parser)
    add_db(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Show it."""
    from eventbus_mp.addons.journal import event_of as event_of_row

    topic, id = event_of(options)
    with opened_store(options) as store:
        entry = store.find(topic, id)
    if entry is None:
        complain(f"no event {id!r} of topic {topic!r} is in {store.url}")
        return Exit.NOT_FOUND
    if options.json:
        print_json(entry_json(entry))
        return Exit.DONE
    print(f"{'position':<15}{entry.position:,}\n{'stored at':<15}{shown_moment(entry.row.recorded_ns)}")
    return show_event(event_of_row(entry.row))
