"""`eventbus-mp outbox count`: how much waits, by topic, and for how long."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._outbox._database import add_db, opened_outbox
from eventbus_mp.cli._text import on_one_line, print_json, print_table, shown_count, shown_seconds

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("count", help="count what waits and what was refused, by topic")
    add_db(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Count."""
    with opened_outbox(options) as store:
        topics = store.counts()
    now_ns = time.time_ns()
    ages = {
        topic: None if counts.oldest_ns is None else max(0.0, (now_ns - counts.oldest_ns) / 1e9)
        for topic, counts in topics.items()
    }
    waiting = sum(counts.waiting for counts in topics.values())
    refused = sum(counts.refused for counts in topics.values())
    if options.json:
        facts = {
            topic: {
                "waiting": counts.waiting,
                "refused": counts.refused,
                "published": counts.published,
                "oldest_s": ages[topic],
            }
            for topic, counts in topics.items()
        }
        print_json({"waiting": waiting, "refused": refused, "topics": facts})
        return Exit.DONE
    print_table(
        ("topic", "waiting", "oldest", "refused", "published"),
        [
            (
                on_one_line(topic),
                f"{counts.waiting:,}",
                shown_seconds(ages[topic]),
                f"{counts.refused:,}" if counts.refused else None,
                f"{counts.published:,}" if counts.published else None,
            )
            for topic, counts in topics.items()
        ],
        droppable=("oldest", "refused", "published"),
    )
    print(f"{shown_count(waiting, 'event')} waiting, {refused:,} refused")
    return Exit.DONE
