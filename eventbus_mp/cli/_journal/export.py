"""`eventbus-mp journal export`: stored events as lines of JSON, the oldest first."""

from __future__ import annotations

import argparse
import base64
from itertools import islice
from typing import TYPE_CHECKING, Any

from eventbus_mp.cli._arguments import add_bus, add_limit
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._select import add_selection, entry_json, selection_of
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._text import print_json

if TYPE_CHECKING:
    from eventbus_mp.addons.journal import Entry
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("export", help="print what is stored as lines of JSON, the oldest first")
    add_bus(parser)
    add_db(parser)
    add_selection(parser)
    add_limit(parser, None)
    parser.add_argument("--encoded", action="store_true", help="with the data as it was on the bus, in base64")
    parser.add_argument("--json", action="store_true", help="print JSON, which it does anyway")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print one line for each entry. The memory that it takes does not depend on how many there are."""
    from eventbus_mp.addons.journal.pages import entries_of

    with opened_store(options) as store:
        for entry in islice(entries_of(store, selection_of(options)), options.limit):
            print_json(_encoded(entry) if options.encoded else entry_json(entry), line=True)
    return Exit.DONE


def _encoded(entry: Entry) -> dict[str, Any]:
    row = entry.row
    fields = {"position": entry.position, **row._asdict(), "data": base64.b64encode(row.data).decode()}
    return {**fields, "buffers": base64.b64encode(row.buffers).decode() if row.buffers is not None else None}
