"""`eventbus-mp events`: the unsettled events of a topic, and who has not settled them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, add_limit, add_topic, seconds
from eventbus_mp.cli._event import no_such_topic
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import print_json, print_table, shown_count, shown_key, shown_seconds

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.explanation import UnsettledDelivery

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("events", help="list the unsettled events of a topic")
    add_bus(parser)
    add_topic(parser)
    parser.add_argument("--older-than", type=seconds, default=0.0, metavar="S", help="in seconds (default: 0)")
    add_limit(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List what each subscriber has not settled, the oldest first."""
    with running_bus(options) as bus:
        if not bus.topic_exists(options.topic):
            return no_such_topic(bus, options.topic)
        found = bus.stuck(options.older_than, limit=options.limit, topic=options.topic)
        unsettled = next((item.unsettled for item in bus.snapshot().topics if item.name == options.topic), 0)
    if options.json:
        print_json([delivery.as_dict() for delivery in found])
        return Exit.DONE
    print_table(
        ("id", "age", "subscriber", "state", "process", "attempt", "why"), map(_row, found), droppable=_OPTIONAL
    )
    if len(found) == options.limit:
        print(f"the topic has {shown_count(unsettled, 'unsettled event')}; --limit N shows more of them")
    elif not found:
        print("no unsettled event" if not unsettled else f"no event has been unsettled for {options.older_than:g} s")
    return Exit.DONE


_OPTIONAL = ("process", "attempt", "why")


def _row(delivery: UnsettledDelivery) -> tuple[object, ...]:
    return (
        "(unreadable)" if delivery.id is None else repr(delivery.id),
        shown_seconds(delivery.age_s),
        shown_key(delivery.subscriber),
        delivery.state,
        delivery.pid,
        delivery.attempt if delivery.attempt > 1 else None,
        delivery.last_error or delivery.why or None,
    )
