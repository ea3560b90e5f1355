"""`eventbus-mp topics`: the topics of a bus, with their numbers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json, print_table, shown_bytes, shown_seconds
from eventbus_mp.patterns import compile_pattern

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.snapshot import Snapshot

__all__ = ["add_parser", "run", "show_topics"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("topics", help="list the topics of a bus")
    add_bus(parser)
    parser.add_argument("pattern", nargs="?", default="", help="only topics that this regular expression matches")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List them by name."""
    pattern = compile_pattern(options.pattern)
    with running_bus(options) as bus:
        snapshot = bus.snapshot()
    names = {topic.name for topic in snapshot.topics if pattern.match(topic.name)}
    if options.json:
        print_json([topic for topic in snapshot.as_dict()["topics"] if topic["name"] in names])
    else:
        show_topics(snapshot, names)
    return Exit.DONE


def show_topics(now: Snapshot, names: set[str]) -> None:
    """Print the table of these topics."""
    print_table(
        ("topic", "unsettled", "oldest", "bytes", "notified", "delivered", "dropped"),
        [
            (
                topic.name,
                topic.unsettled,
                shown_seconds(topic.oldest_age_s),
                shown_bytes(topic.bytes_unsettled),
                topic.notified,
                topic.delivered,
                topic.dropped,
            )
            for topic in now.topics
            if topic.name in names
        ],
        droppable=("oldest",),
    )
