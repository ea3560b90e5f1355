"""How the subcommands of `journal` say which entries, and how they print one."""

from __future__ import annotations

import argparse
from contextlib import suppress
from datetime import datetime
from time import time_ns
from typing import TYPE_CHECKING, Any

from eventbus_mp.cli._arguments import at_least
from eventbus_mp.cli._payload import event_json
from eventbus_mp.cli._text import utc
from eventbus_mp.errors import UsageError

if TYPE_CHECKING:
    from eventbus_mp.addons.journal import Entry, Selection

__all__ = ["add_selection", "entry_json", "selection_of"]

NS = 1_000_000_000


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which entries."""
    parser.add_argument("--topic", metavar="RE", help="only topics that this regular expression matches")
    parser.add_argument("--transaction", metavar="ID", help="only events of this transaction, a text")
    parser.add_argument("--int-transaction", type=int, metavar="N", help="only events of this transaction, an integer")
    times = "as 2026-03-31T12:00 (local time, or with its zone), or so long ago: 90s, 15m, 2h, 7d, 4w"
    parser.add_argument("--since", type=_time_ns, metavar="TIME", help=f"only what was stored then or later; {times}")
    parser.add_argument("--until", type=_time_ns, metavar="TIME", help="only what was stored before")
    parser.add_argument("--after", type=at_least(0), default=0, metavar="POS", help="only positions behind this one")
    parser.add_argument("--before", type=at_least(0), metavar="POS", help="only positions in front of this one")


def selection_of(options: argparse.Namespace) -> Selection:
    """What the options select.

    Raises:
        UsageError: They name two transactions.
    """
    from eventbus_mp.addons.journal import Selection

    if options.transaction is not None and options.int_transaction is not None:
        raise UsageError("journal: give --transaction or --int-transaction, not both")
    transaction = options.int_transaction if options.transaction is None else options.transaction
    return Selection(options.topic, transaction, options.after, options.before, options.since, options.until)


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as values that JSON has, with the event's data or why that cannot be read."""
    from eventbus_mp.addons.journal import event_of

    recorded = utc(entry.row.recorded_ns).isoformat().replace("+00:00", "Z")
    return {"position": entry.position, "recorded_at": recorded, **event_json(event_of(entry.row))}


def _time_ns(text: str) -> int:
    from eventbus_mp.addons.journal.retention import duration_ns

    if text[:-1].isdecimal():
        with suppress(UsageError):  # It may be a date without its dashes.
            return time_ns() - (duration_ns(text) or 0)
    try:
        # CPython 3.10 does not read the Z.
        at = datetime.fromisoformat(text.removesuffix("Z") + ("+00:00" if text.endswith("Z") else "")).astimezone()
    except (ValueError, OverflowError) as cause:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write 2026-03-31T12:00, or 15m for a quarter of an hour ago"
        ) from cause
    past = at - utc(0)
    return (past.days * 86_400 + past.seconds) * NS + past.microseconds * 1_000
