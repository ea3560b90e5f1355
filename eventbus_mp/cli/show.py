"""`eventbus-mp show`: an unsettled event with its data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._event import add_event, event_of, no_such_event
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._payload import event_json, show_event
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("show", help="show an unsettled event and its data")
    add_event(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Fetch one event, and print it; it stays unsettled."""
    event_key = event_of(options)
    with running_bus(options) as bus:
        found = bus.fetch_event(event_key)
        if found is None:
            settled = bool(bus.story(event_key))
            return no_such_event(bus, event_key, what="unsettled any more" if settled else "unsettled")
        # Its memory is not kept while somebody reads the screen.
        event = found.copy()
    if options.json:
        print_json(event_json(event))
        return Exit.DONE
    return show_event(event)
