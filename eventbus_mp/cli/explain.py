"""`eventbus-mp explain`: why an event is still here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._event import add_event, event_of, no_such_event
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("explain", help="say why an event is still unsettled")
    add_event(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Explain one event."""
    event = event_of(options)
    with running_bus(options) as bus:
        explanation = bus.explain(event)
        if explanation is None:
            return no_such_event(bus, event, what="remembered")
    if options.json:
        print_json(explanation.as_dict())
    else:
        print(explanation)
    return Exit.DONE
