"""`eventbus-mp journal list`: what is stored, the newest first."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, add_limit
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._select import add_selection, entry_json, selection_of
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._text import on_one_line, print_json, print_table, shown_bytes, shown_moment

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("list", help="list what is stored, the newest first")
    add_bus(parser)
    add_db(parser)
    add_selection(parser)
    add_limit(parser)
    parser.add_argument("--oldest-first", action="store_true", help="the oldest first")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List the entries; with `--json` the data of each as well."""
    from eventbus_mp.addons.journal.pages import entries_of, size_of

    with opened_store(options) as store:
        found = entries_of(store, selection_of(options), newest_first=not options.oldest_first)
        entries = list(islice(found, options.limit))
    if options.json:
        print_json([entry_json(entry) for entry in entries])
        return Exit.DONE
    print_table(
        ("position", "stored at", "topic", "id", "transaction", "size"),
        [
            (
                entry.position,
                shown_moment(entry.row.recorded_ns),
                on_one_line(entry.row.topic),
                repr(entry.row.id),
                None if entry.row.transaction_id is None else repr(entry.row.transaction_id),
                shown_bytes(size_of(entry.row)),
            )
            for entry in entries
        ],
        droppable=("transaction",),
    )
    if not entries:
        print("no such entry")
    elif len(entries) == options.limit:
        print("perhaps there are more; --limit N shows them")
    return Exit.DONE
