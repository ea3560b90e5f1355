"""How the subcommands of `outbox` name a database, and how they print one of its items."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from eventbus_mp.cli._arguments import at_least
from eventbus_mp.cli._payload import event_json
from eventbus_mp.cli._text import utc
from eventbus_mp.errors import EventBusError

if TYPE_CHECKING:
    from eventbus_mp.addons.outbox import Item, OutboxStore

__all__ = ["add_db", "add_positions", "add_table", "item_json", "opened_outbox"]

TABLE = "eventbus_outbox"


def add_db(parser: argparse.ArgumentParser) -> None:
    """Add the options `--db` and `--table`."""
    parser.add_argument(
        "--db", required=True, metavar="URL", help="the database: sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    )
    add_table(parser)


def add_table(parser: argparse.ArgumentParser) -> None:
    """Add the option `--table`."""
    parser.add_argument("--table", default=TABLE, metavar="NAME", help=f"the outbox's table (default: {TABLE})")


def add_positions(parser: argparse.ArgumentParser, text: str, *, optional: bool = False) -> None:
    """Add positions of items."""
    parser.add_argument("position", type=at_least(1), nargs="*" if optional else "+", help=text)


def opened_outbox(options: argparse.Namespace) -> OutboxStore:
    """The outbox that the options name, to be looked at and closed.

    Raises:
        UsageError: It is not the URL of a database.
        StoreError: It cannot be opened, or has no such table.
    """
    from eventbus_mp.addons.outbox import open_outbox

    return open_outbox(options.db, table=options.table)


def item_json(item: Item) -> dict[str, Any]:
    """An item as values that JSON has, with the event's data or why that cannot be read."""
    from eventbus_mp.addons.journal import event_of

    facts: dict[str, Any] = {"position": item.position, "state": item.state, "added_at": _time(item.row.recorded_ns)}
    if item.done_ns is not None:
        facts["done_at"] = _time(item.done_ns)
    if item.reason is not None:
        facts["reason"] = item.reason
    try:
        return {**facts, **event_json(event_of(item.row))}
    except (EventBusError, ValueError, TypeError) as error:  # That is why it was refused, or will be.
        return {**facts, "topic": item.row.topic, "id": item.row.id, "error": str(error)}


def _time(at_ns: int) -> str:
    return utc(at_ns).isoformat().replace("+00:00", "Z")
