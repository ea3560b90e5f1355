"""`eventbus-mp journal checkpoints`: the named replays of a journal, how far they have come, and forgetting one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._text import complain, on_one_line, print_json, print_table, shown_moment

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("checkpoints", help="list the named replays, or forget one")
    add_bus(parser)
    add_db(parser)
    parser.add_argument("--drop", metavar="NAME", help="forget this one: nothing is kept for it any more")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List or forget."""
    with opened_store(options) as store:
        if options.drop is not None:
            if store.drop_checkpoint(options.drop):
                return Exit.DONE
            complain(f"no replay has the name {options.drop!r}")
            return Exit.NOT_FOUND
        found = store.checkpoints()
    if options.json:
        print_json(
            [
                {
                    "name": one.name,
                    "target": one.target,
                    "next_position": one.next_position,
                    "until_position": one.until_position,
                    "ended": one.ended,
                }
                for one in found
            ]
        )
        return Exit.DONE
    print_table(
        ("name", "target", "next position", "until", "state", "at"),
        [
            (
                on_one_line(one.name),
                on_one_line(one.target),
                one.next_position,
                one.until_position,
                "ended" if one.ended else "open",
                shown_moment(one.updated_ns),
            )
            for one in found
        ],
    )
    if not found:
        print("no replay has a checkpoint")
    return Exit.DONE
