"""`eventbus-mp journal count`: how many events are stored, by topic."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._select import add_selection, selection_of
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._text import on_one_line, print_json, print_table, shown_count

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("count", help="count what is stored, by topic")
    add_bus(parser)
    add_db(parser)
    add_selection(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Count."""
    with opened_store(options) as store:
        topics = store.count_per_topic(selection_of(options))
    total = sum(topics.values())
    if options.json:
        print_json({"events": total, "topics": topics})
        return Exit.DONE
    print_table(("topic", "events"), [(on_one_line(topic), f"{count:,}") for topic, count in topics.items()])
    print(shown_count(total, "event"))
    return Exit.DONE
