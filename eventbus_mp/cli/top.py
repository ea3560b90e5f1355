"""`eventbus-mp top`: a bus, live; or one screen of it as text."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._rates import TABLES, Numbers, chosen
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import complain, print_json, print_table
from eventbus_mp.cli.status import headline
from eventbus_mp.errors import UsageError

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.client.bus import EventBus

__all__ = ["add_parser", "run"]

INTERVAL_MIN_S = 0.1


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("top", help="watch a bus live (needs the package textual), or print one screen")
    add_bus(parser)
    parser.add_argument("--interval", type=seconds, default=1.0, metavar="S", help="between two looks (default: 1)")
    parser.add_argument("--filter", metavar="REGEX", help="only rows in which this is found")
    parser.add_argument("--once", action="store_true", help="print one screen as text; needs no textual")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Show it until the user leaves; `--json` is one screen as well, and so is all that goes to no screen."""
    interval_s = max(options.interval, INTERVAL_MIN_S)
    wanted = _compiled(options.filter)
    with running_bus(options) as bus:
        if options.once or options.json or not _has_screen():
            _print(_numbers(bus, interval_s), wanted, options)
            return Exit.DONE
        from eventbus_mp.cli._screen import watch

        error = watch(bus, interval_s, options.filter or "")
    if error:
        complain(error)
        return Exit.FAILED
    return Exit.DONE


def _has_screen() -> bool:
    """Whether both ends are a terminal that can do more than print lines: a shell in an editor says that it is dumb."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def _compiled(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text, re.IGNORECASE) if text else None
    except re.error as cause:
        raise UsageError(f"--filter {text!r} is not a regular expression: {cause}") from cause


def _numbers(bus: EventBus, interval_s: float) -> Numbers:
    """Two snapshots of which the second one has rates."""
    before, began_s = bus.snapshot(), time.monotonic()
    threading.Event().wait(interval_s)
    return Numbers(bus.snapshot(), before, time.monotonic() - began_s)


def _print(numbers: Numbers, wanted: re.Pattern[str] | None, options: argparse.Namespace) -> None:
    if options.json:
        print_json(numbers.as_dict())
        return
    print("\n".join(headline(numbers.now)))
    for table in TABLES:
        rows = chosen(table.rows(numbers), wanted, table.sorted_by, largest_first=True)
        if rows:
            print()
            print_table(table.heads, [row.cells for row in rows])
