"""`eventbus-mp subscribers`: the subscribers of a bus, what they get, and how far they are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._completion import completes_topics
from eventbus_mp.cli._event import no_such_topic
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json, print_table, shown_bytes, shown_key, shown_seconds
from eventbus_mp.patterns import compile_pattern

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.snapshot import SubscriberSnapshot

__all__ = ["add_parser", "run", "show_subscribers"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("subscribers", help="list the subscribers of a bus")
    add_bus(parser)
    completes_topics(parser.add_argument("--topic", help="only those that get the events of this topic"))
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List them, the oldest first."""
    with running_bus(options) as bus:
        if options.topic is not None and not bus.topic_exists(options.topic):
            return no_such_topic(bus, options.topic)
        snapshot = bus.snapshot()
    rows = [item for item in snapshot.subscribers if options.topic is None or _gets(item, options.topic)]
    if options.json:
        whole = snapshot.as_dict()["subscribers"]
        print_json([shown for shown, item in zip(whole, snapshot.subscribers, strict=True) if item in rows])
    else:
        show_subscribers(rows, patterns=True)
    return Exit.DONE


def _gets(subscriber: SubscriberSnapshot, topic: str) -> bool:
    return any(compile_pattern(pattern).match(topic) for pattern in subscriber.patterns)


def show_subscribers(subscribers: list[SubscriberSnapshot], *, patterns: bool) -> None:
    """Print the table of these subscribers: with their patterns and processes, or else with their handling times."""
    print_table(
        (
            "subscriber",
            "patterns",
            "processes",
            "queued",
            "in flight",
            "completed",
            "skipped",
            "redelivered",
            "p50",
            "p99",
            "bound",
            "stays",
        ),
        [
            (
                shown_key(item.key),
                " ".join(item.patterns) if patterns else None,
                " ".join(map(str, item.pids)) or "none" if patterns else None,
                item.queued,
                item.in_flight,
                item.completed,
                item.skipped or None,
                item.redelivered or None,
                None if patterns else shown_seconds(item.handling_p50_s),
                None if patterns else shown_seconds(item.handling_p99_s),
                _shown_bound(item),
                shown_seconds(item.grace_left_s),
            )
            for item in subscribers
        ],
        droppable=("patterns", "processes", "skipped", "redelivered", "p50", "p99", "bound", "stays"),
    )


def _shown_bound(item: SubscriberSnapshot) -> str | None:
    """How full its backlog is, and what happens when it is; None: it has no bound."""
    if item.when_full is None:
        return None
    parts = []
    if item.backlog_max is not None:
        parts.append(f"{item.queued + item.in_flight} of {item.backlog_max}")
    if item.backlog_bytes_max is not None:
        parts.append(f"{shown_bytes(item.backlog_bytes or 0)} of {shown_bytes(item.backlog_bytes_max)}")
    return f"{', '.join(parts)}, {item.when_full}"
