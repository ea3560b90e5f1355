"""`eventbus-mp stop`: end a bus for all its processes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json, shown_count

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("stop", help="end a bus for all its processes, and drop its unsettled events")
    add_bus(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Shut the bus down, as `EventBus.shutdown` does, and wait until its manager has ended."""
    bus = running_bus(options)
    unsettled = bus.statistics().events_unsettled
    bus.shutdown()
    if options.json:
        print_json({"bus": options.bus, "dropped": unsettled})
    else:
        print(f"{options.bus}: stopped, {shown_count(unsettled, 'unsettled event')} dropped")
    return Exit.DONE
