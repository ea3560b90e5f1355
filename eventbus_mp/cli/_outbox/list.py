"""`eventbus-mp outbox list`: what waits, or what was refused."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json, add_limit, at_least
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._outbox._database import add_db, item_json, opened_outbox
from eventbus_mp.cli._text import on_one_line, print_json, print_table, shown_moment

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("list", help="list what waits, the oldest first; or what was refused")
    add_db(parser)
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--refused", action="store_true", help="what the bus could not take, with the reasons")
    state.add_argument("--published", action="store_true", help="what was published and is kept")
    parser.add_argument("--after", type=at_least(0), default=0, metavar="POS", help="only positions behind this one")
    add_limit(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List the items; with `--json` the data of each as well."""
    state = "refused" if options.refused else "published" if options.published else "waiting"
    with opened_outbox(options) as store:
        items = store.items(state, after=options.after, limit=options.limit)
    if options.json:
        print_json([item_json(item) for item in items])
        return Exit.DONE
    print_table(
        ("position", "added at", "topic", "id", "reason"),
        [
            (
                item.position,
                shown_moment(item.row.recorded_ns),
                on_one_line(item.row.topic),
                repr(item.row.id),
                on_one_line(item.reason) if item.reason is not None else None,
            )
            for item in items
        ],
        droppable=("reason",),
    )
    if not items:
        print(f"no event is {state}")
    elif len(items) == options.limit:
        print("perhaps there are more; --limit N shows them")
    return Exit.DONE
