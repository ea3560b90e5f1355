"""`eventbus-mp story`: what happened to an event."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._event import add_event, event_of, no_such_event
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import on_one_line, print_json

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.history import HistoryPage

__all__ = ["add_parser", "run"]

ENTRIES_MAX = 1_000


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("story", help="say what happened to an event, settled or not")
    add_event(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print what the manager's log has of the event, the oldest first."""
    event = event_of(options)
    with running_bus(options) as bus:
        page = bus.history(shadow=event, limit=ENTRIES_MAX)
        if not page.entries:
            return no_such_event(bus, event, what="remembered")
    if options.json:
        print_json(page.as_dict())
    else:
        print("\n".join(_lines(page)))
    return Exit.DONE


def _lines(page: HistoryPage) -> list[str]:
    """The entries with the time of day, to the microsecond."""
    import datetime

    lines, day = [], None
    for entry in reversed(page.entries):
        moment = datetime.datetime.fromtimestamp((entry.at_ns + page.unix_offset_ns) / 1e9)
        if moment.date() != day:
            day = moment.date()
            lines.append(f"{day:%Y-%m-%d}")
        lines.append(f"{moment:%H:%M:%S.%f}  {on_one_line(entry.text)}")
    return lines
