"""`eventbus-mp journal replay`: publish stored events again, on a bus that is named."""

from __future__ import annotations

import argparse
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, add_limit
from eventbus_mp.cli._completion import completes_buses
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._select import add_selection, selection_of
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._running import joined_bus
from eventbus_mp.cli._text import complain, on_one_line, print_json, print_table, shown_count

if TYPE_CHECKING:
    from eventbus_mp.addons.journal.pace import Pace
    from eventbus_mp.addons.journal.replay import Plan, Replayed
    from eventbus_mp.cli import Commands

__all__ = ["TTL", "add_parser", "run"]

TTL = ("strip", "restart", "keep")


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("replay", help="publish stored events again, on a bus that is named")
    add_bus(parser)
    add_db(parser)
    completes_buses(parser.add_argument("--to", required=True, metavar="BUS", help="the bus to publish on"))
    add_selection(parser)
    add_limit(parser, None)
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=_speed, metavar="1x|max", help="as recorded, or so many times as fast")
    pace.add_argument("--rate", type=_rate, metavar="N", help="so many events a second")
    parser.add_argument("--ttl", choices=TTL, default="strip", help="of events with one (default: strip)")
    parser.add_argument("--as", dest="name", metavar="NAME", help="go on where a replay of this name was stopped")
    parser.add_argument("--allow-drop", action="store_true", help="also topics that nobody is subscribed to")
    parser.add_argument("--into-live", action="store_true", help="also the bus that this journal records")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be published")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Replay until all is published, or until a signal comes."""
    from eventbus_mp.addons.journal.replay import Replay

    with opened_store(options) as store, joined_bus(argparse.Namespace(bus=options.to, run_dir=options.run_dir)) as bus:
        replay = Replay(
            store,
            bus,
            selection_of(options),
            limit=options.limit,
            pace=_pace(options),
            ttl=options.ttl,
            # A look leaves no checkpoint behind.
            name=None if options.dry_run else options.name,
            into_live=options.into_live,
            allow_drop=options.allow_drop,
        )
        if options.dry_run:
            return _show_plan(options, replay.plan())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: replay.stop())
        return _show_done(options, replay.run())


def _pace(options: argparse.Namespace) -> Pace:
    from eventbus_mp.addons.journal.pace import AsFastAsItGoes, AsRecorded, Steady

    if options.rate is not None:
        return Steady(options.rate)
    return AsRecorded(options.speed) if options.speed else AsFastAsItGoes()


def _show_plan(options: argparse.Namespace, plan: Plan) -> int:
    total = sum(plan.events.values())
    if options.json:
        print_json({"events": total, "topics": dict(plan.events), "unheard": list(plan.unheard)})
    else:
        rows = [
            (on_one_line(topic), f"{count:,}", "nobody is subscribed" if topic in plan.unheard else None)
            for topic, count in plan.events.items()
        ]
        print_table(("topic", "events", "but"), rows, droppable=("but",))
        print(f"{shown_count(total, 'event')} would be published on bus {options.to!r}")
    return Exit.NOT_FOUND if plan.unheard and not options.allow_drop else Exit.DONE


def _show_done(options: argparse.Namespace, done: Replayed) -> int:
    if options.json:
        print_json(asdict(done))
    else:
        text = f"{shown_count(done.published, 'event')} published on bus {options.to!r}"
        for count, what in ((done.dropped, "dropped"), (done.expired, "expired"), (done.refused, "refused")):
            text += f", {count:,} {what}" if count else ""
        print(text)
    if not done.is_complete:
        again = f"the same command with --as {options.name}" if options.name else f"--after {done.next_position - 1}"
        complain(f"stopped in front of position {done.next_position}; {again} goes on there")
        return Exit.INTERRUPTED
    return Exit.FAILED if done.refused else Exit.DONE


def _speed(text: str) -> float:
    """How many times as fast as recorded; 0: as fast as it goes."""
    return 0.0 if text == "max" else _rate(text.removesuffix("x"))


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
