"""`eventbus-mp journal verify`: which events passed while no journal was subscribed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import on_one_line, print_json, shown_count, shown_moment
from eventbus_mp.errors import NoSuchBus

if TYPE_CHECKING:
    from eventbus_mp.addons.journal.store import Run
    from eventbus_mp.addons.journal.verify import Gap
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]

REJECTED_MAX = 1_000


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("verify", help="say which events passed while no journal was subscribed")
    add_bus(parser)
    add_db(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the gaps; 1: there are some, or events that could not be stored."""
    from eventbus_mp.addons.journal.store import Selection
    from eventbus_mp.addons.journal.verify import find_gaps

    with opened_store(options) as store:
        runs, stored = store.runs(), store.count(Selection())
        rejected = store.rejected(REJECTED_MAX)
    gaps = find_gaps(runs, _counters_of_now(options, runs))
    if options.json:
        reasons = [{"topic": one.topic, "id": one.id, "reason": one.reason} for one in rejected]
        print_json({"runs": len(runs), "stored": stored, "gaps": [asdict(gap) for gap in gaps], "rejected": reasons})
    else:
        for gap in gaps:
            print(_line(gap))
        for one in rejected:
            print(on_one_line(f"topic {one.topic}: event {one.id!r} could not be stored: {one.reason}"))
        whole = "" if gaps or rejected else "; nothing is missing"
        print(f"{shown_count(stored, 'event')} of {shown_count(len(runs), 'run')}{whole}")
    return Exit.FAILED if gaps or rejected else Exit.DONE


def _counters_of_now(options: argparse.Namespace, runs: list[Run]) -> dict[tuple[str, str], Mapping[str, int]]:
    """The counters of the bus, if it runs and its journal is not subscribed."""
    from eventbus_mp.addons.journal.counters import notified_counts, subscriber_of

    try:
        with running_bus(options) as bus:
            snapshot = bus.snapshot()
    except NoSuchBus:
        return {}
    mine = [run for run in runs if run.bus == options.bus and run.incarnation == snapshot.manager.incarnation]
    if not mine or subscriber_of(snapshot, mine[-1].subscriber) is not None:
        return {}
    return {(options.bus, snapshot.manager.incarnation): notified_counts(snapshot, mine[-1].patterns)}


def _line(gap: Gap) -> str:
    what = f"topic {on_one_line(gap.topic)}: " if gap.topic is not None else ""
    count = f"{'up to ' if gap.at_most else ''}{shown_count(gap.events, 'event')}"
    ends = ("after", gap.since_ns), ("until", gap.until_ns)
    times = [f"{word} {shown_moment(ns)}" for word, ns in ends if ns is not None]
    return f"{what}{count} {gap.reason}" + (f", {' '.join(times)}" if times else "")
