"""`eventbus-mp log`: print a line for each event, as a logger in a program writes it."""

from __future__ import annotations

import argparse
import logging
import select
import signal
import sys
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, at_least
from eventbus_mp.cli._completion import completes_topics
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import joined_bus

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]

NAME = "eventbus-mp log"
LOOK_S = 1.0
"""How often to look whether somebody still reads what is printed."""
LEVELS = ("debug", "info", "warning", "error", "critical")


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("log", help="print a line for each event, until Ctrl-C")
    add_bus(parser)
    patterns = parser.add_argument(
        "pattern", nargs="*", help="only topics that one of these regular expressions matches (default: all topics)"
    )
    completes_topics(patterns)
    parser.add_argument("--light", action="store_true", help="print topics and ids only, and read nothing else")
    parser.add_argument("--level", choices=LEVELS, help="the level of the lines (default: info)")
    parser.add_argument("--redact", action="append", default=[], metavar="KEY", help="do not show values of this key")
    parser.add_argument("--sample", type=_share, default=1.0, metavar="SHARE", help="only this share of the events")
    parser.add_argument("--per-second", type=at_least(0), metavar="N", help="at most N lines a second for each topic")
    parser.add_argument(
        "--bytes-max", type=at_least(256), default=2048, metavar="N", help="the longest line (default: 2,048 bytes)"
    )
    add_json(parser, lines=True)
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return share


class _Printer(logging.Handler):
    """Prints lines. `is_gone`: nobody reads them any more."""

    is_gone = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), flush=True)
        except BrokenPipeError:
            self.is_gone = True

    def look(self) -> None:
        """Raises:
        BrokenPipeError: Nobody reads what is printed any more.
        """
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
        if self.is_gone or any(found & (select.POLLERR | select.POLLHUP) for _, found in poller.poll(0)):
            raise BrokenPipeError


def run(options: argparse.Namespace) -> int:
    """Log until a signal comes, or the bus ends."""
    from eventbus_mp.addons.logger import EventLogger

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    printer = _Printer()
    if not options.json:
        printer.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    lines = logging.Logger("eventbus-mp log")  # Of its own: nothing else prints here.
    lines.addHandler(printer)
    try:
        with joined_bus(options) as bus:
            logger = EventLogger(
                bus,
                options.pattern or None,
                options.level,
                options.light or None,
                enabled=True,
                logger=lines,
                json=options.json,
                redact=options.redact,
                sample=options.sample,
                per_second=options.per_second,
                bytes_max=options.bytes_max,
                name=NAME,
                broadcast=True,
            )
            with logger:
                while not logger.wait(LOOK_S):
                    printer.look()
            if logger.error is not None:
                raise logger.error
    except KeyboardInterrupt:
        return Exit.DONE
    return Exit.DONE
