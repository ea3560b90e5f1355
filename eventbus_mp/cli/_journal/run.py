"""`eventbus-mp journal run`: store every event of a bus, as a service."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, at_least, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._store import add_db, url_of
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._stopping import stop_on_signals
from eventbus_mp.cli._text import print_json, shown_count
from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import UsageError

if TYPE_CHECKING:
    from eventbus_mp.addons.journal.journal import Journal
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("run", help="store every event until SIGTERM or Ctrl-C; a second one stands by")
    add_bus(parser)
    add_db(parser)
    parser.add_argument(
        "--pattern", action="append", default=[], metavar="RE", help="only topics that it matches; may be repeated"
    )
    parser.add_argument("--name", default="journal", help="the subscriber's name (default: journal)")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="[RE=]TIME",
        help="how long events stay, as 90s, 15m, 1h, 30d, 2w or forever; with RE= those of some topics (default: 30d)",
    )
    parser.add_argument("--ignore-ttl", action="store_true", help="an event's own ttl does not delete it")
    parser.add_argument("--batch", type=at_least(1), default=1_000, metavar="N", help="events (default: 1,000)")
    parser.add_argument("--batch-bytes", type=at_least(1), default=4 << 20, metavar="N", help="default: 4 MiB")
    parser.add_argument("--within", type=seconds, default=0.05, metavar="S", help="seconds (default: 0.05)")
    parser.add_argument("--on-outage", choices=("block", "spool"), default="block", help="default: block")
    parser.add_argument("--spool", metavar="URL", help="where events are stored while the journal is away")
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Be the journal, or its standby, until a signal comes. Settings are taken from `EVENTBUS_MP_*` variables."""
    from eventbus_mp.addons.journal.journal import Journal
    from eventbus_mp.worker.service_log import set_up_logging

    set_up_logging(logging.WARNING)
    keep, keep_topics = _keep(options.keep)
    with EventBus(options.bus, run_dir=str(run_root(options))) as bus:
        journal = Journal(
            bus,
            url_of(options),
            patterns=options.pattern or [""],
            name=options.name,
            keep=keep,
            keep_topics=keep_topics,
            own_ttl=not options.ignore_ttl,
            batch_events=options.batch,
            batch_bytes=options.batch_bytes,
            batch_within_s=options.within,
            on_outage=options.on_outage,
            spool=options.spool,
        )
        stop_on_signals(journal.ask_to_stop)
        with journal:
            _say(options, journal)
            journal.wait()
        _say(options, journal)
    return Exit.DONE


def _keep(given: list[str]) -> tuple[str | None, dict[str, str | None]]:
    """What is kept by default, and by pattern."""
    keep = "30d"
    topics: dict[str, str | None] = {}
    for one in given:
        pattern, equals, time = one.rpartition("=")
        if equals and not pattern:
            raise UsageError(f"--keep {one}: give TIME, or RE=TIME")
        if equals:
            topics[pattern] = time
        else:
            keep = time
    return keep, topics


def _say(options: argparse.Namespace, journal: Journal) -> None:
    status = journal.status()
    if options.json:
        facts = {"bus": options.bus, "pid": os.getpid(), "db": journal.url, "state": status.state}
        counts = {"stored": status.stored, "duplicates": status.duplicates, "rejected": status.rejected}
        print_json({**facts, **counts}, line=True)
        return
    text = f"{options.bus}: {status.state}, {journal.url}"
    if status.state == "stopped":
        text += f", {shown_count(status.stored, 'event')} stored"
        if status.rejected:
            text += f", {status.rejected:,} rejected"
    print(text, flush=True)
