"""`eventbus-mp drain`: wait until nothing is unsettled."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("drain", help="wait until no event is unsettled")
    add_bus(parser)
    parser.add_argument("pattern", nargs="?", default="", help="only of topics that this regular expression matches")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="give up after S seconds, with exit code 5")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Wait, as `EventBus.drain` does. Says nothing when it is done, as it may be one step of a script."""
    with running_bus(options) as bus:
        bus.drain(options.pattern, timeout_s=options.timeout)
    if options.json:
        print_json({"bus": options.bus, "pattern": options.pattern, "drained": True})
    return Exit.DONE
