"""What commands print: tables, JSON, sizes, times."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus_mp.statistics import SubscriberKey

__all__ = [
    "complain",
    "on_one_line",
    "print_json",
    "print_table",
    "shown_bytes",
    "shown_count",
    "shown_key",
    "shown_moment",
    "shown_seconds",
    "utc",
]

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, droppable: Collection[str] = ()) -> None:
    """Print the rows as a table that fits the terminal; nothing without a row.

    Args:
        heads: Of the columns.
        rows: Their cells; None: there is nothing to say.
        droppable: The columns that are left out if they say nothing in any row.
    """
    body = [list(row) for row in rows]
    if not body:
        return
    kept = [at for at, head in enumerate(heads) if head not in droppable or any(row[at] is not None for row in body)]
    # It imports rich, which JSON does without.
    from eventbus_mp.console import print_table

    print_table([heads[at] for at in kept], [["-" if row[at] is None else str(row[at]) for at in kept] for row in body])


def print_json(value: Any, *, line: bool = False) -> None:
    """Print a value as JSON; `line`: on one line, at once."""
    print(json.dumps(value, indent=None if line else 2), flush=line)


def on_one_line(text: str) -> str:
    """The text without line ends and terminal escapes: names and command lines may hold anything."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def complain(text: str) -> None:
    """Say on standard error what is wrong."""
    print(f"eventbus-mp: {text}", file=sys.stderr)


def shown_key(key: SubscriberKey) -> str:
    """A subscriber, with its host and its config if it has one."""
    return on_one_line(key.text if key.config is None else f"{key.text} {key.config!r}")


def shown_count(number: int, thing: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def shown_bytes(nbytes: int) -> str:
    """A size for people: `3.5 MiB`."""
    size, units = float(nbytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 100 else f"{size:.1f} {units[0]}"


def shown_seconds(seconds: float | None) -> str | None:
    """A time for people: `250 us`, `3.1 ms`, `4.0 s`, `2.5 h`; None of None."""
    if seconds is None:
        return None
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1, 1e3, "ms"), (120, 1, "s"), (7_200, 1 / 60, "min")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3_600:.3g} h"


def utc(at_ns: int) -> datetime:
    """A time in nanoseconds since the epoch, without rounding it by way of a float."""
    return EPOCH + timedelta(microseconds=at_ns // 1_000)


def shown_moment(at_ns: int) -> str:
    """A time for people, in their zone: `2026-03-31 12:00:00.250`."""
    return f"{utc(at_ns).astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
