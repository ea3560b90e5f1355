"""`eventbus-mp stuck`: the deliveries that have been unsettled for longest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, add_limit, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import on_one_line, print_json, shown_seconds

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("stuck", help="list what has been unsettled for longest")
    add_bus(parser)
    parser.add_argument("--older-than", type=seconds, default=1.0, metavar="S", help="in seconds (default: 1)")
    add_limit(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List them, the oldest first."""
    with running_bus(options) as bus:
        stuck = bus.stuck(options.older_than, limit=options.limit)
    if options.json:
        print_json([delivery.as_dict() for delivery in stuck])
    else:
        for item in stuck:
            print(f"{shown_seconds(item.age_s)}  {on_one_line(f'{item.topic} {item.id!r}')}  {on_one_line(item.text)}")
    return Exit.DONE
