"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from threading import TIMEOUT_MAX

from eventbus_mp.cli._completion import completes_buses, completes_topics

__all__ = ["add_bus", "add_json", "add_limit", "add_run_dir", "add_topic", "at_least", "seconds"]

DIGITS_MAX = 20
LISTED = 20
"""How many lines a command lists by default."""


def add_bus(parser: argparse.ArgumentParser, *, optional: str = "") -> None:
    """Add the bus's name, and the option `--run-dir`; `optional`: what the command does without a name."""
    text = f"the bus's name; {optional}" if optional else "the bus's name"
    completes_buses(parser.add_argument("bus", nargs="?" if optional else None, help=text))
    add_run_dir(parser)


def add_topic(parser: argparse.ArgumentParser) -> None:
    """Add a topic of the bus."""
    completes_topics(parser.add_argument("topic", help="the topic"))


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option `--run-dir`."""
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where the buses are (default: as EVENTBUS_MP_RUN_DIR or the system says)"
    )


def add_json(parser: argparse.ArgumentParser, *, lines: bool = False) -> None:
    """Add the option `--json`; `lines`: the command prints one value a line."""
    parser.add_argument("--json", action="store_true", help="print JSON, one value a line" if lines else "print JSON")


def add_limit(parser: argparse.ArgumentParser, default: int | None = LISTED) -> None:
    """Add the option `--limit`; None: all of them unless it is given."""
    shown = "all" if default is None else f"{default:,}"
    parser.add_argument(
        "--limit", type=at_least(1), default=default, metavar="N", help=f"how many at most (default: {shown})"
    )


def seconds(text: str) -> float:
    """The value of an option that is a time."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds, from 0 to {TIMEOUT_MAX:g}")
    return value


def at_least(least: int) -> Callable[[str], int]:
    """What reads the value of an option that is a count of `least` or more."""

    def count(text: str) -> int:
        # The length first: Python refuses to read a number of thousands of digits.
        if not text.isdecimal() or len(text) > DIGITS_MAX or not least <= int(text) <= sys.maxsize:
            raise argparse.ArgumentTypeError(f"{text!r:.80} is not a number, {least} or more")
        return int(text)

    return count
