"""`eventbus-mp outbox run`: publish what is committed to an outbox, as a service."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, at_least, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._outbox._database import add_db
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._stopping import stop_on_signals
from eventbus_mp.cli._text import complain, on_one_line, print_json, shown_count
from eventbus_mp.client.bus import EventBus

if TYPE_CHECKING:
    from eventbus_mp.addons.outbox import Relay, RelayStatus
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("run", help="publish what is committed, until SIGTERM or Ctrl-C; others stand by")
    add_bus(parser)
    add_db(parser)
    parser.add_argument("--once", action="store_true", help="publish what is there, and end")
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help="publish a topic only while this subscriber gets it; may be repeated",
    )
    parser.add_argument("--allow-drop", action="store_true", help="also events that nobody is subscribed to")
    parser.add_argument(
        "--keep", metavar="TIME", help="how long published events stay: 90s, 15m, 1h, 30d, 2w (default: not at all)"
    )
    parser.add_argument("--batch", type=at_least(1), default=500, metavar="N", help="events at once (default: 500)")
    parser.add_argument(
        "--poll", type=seconds, metavar="S", help="how often to look (default: 0.02; PostgreSQL, which tells: 1)"
    )
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Be the relay, or its standby, until a signal comes. Settings are taken from `EVENTBUS_MP_*` variables."""
    from eventbus_mp.addons.outbox import Relay
    from eventbus_mp.worker.service_log import set_up_logging

    set_up_logging(logging.WARNING)
    with EventBus(options.bus, run_dir=str(run_root(options)), require=options.require) as bus:
        relay = Relay(
            bus,
            options.db,
            table=options.table,
            once=options.once,
            allow_drop=options.allow_drop,
            keep=options.keep,
            batch=options.batch,
            poll_s=options.poll,
        )
        stop_on_signals(relay.ask_to_stop)
        with relay:
            if not options.once:
                _say(options, relay, relay.status())
            relay.wait()
        return _end(options, relay)


def _end(options: argparse.Namespace, relay: Relay) -> int:
    status = relay.status()
    _say(options, relay, status)
    if not options.once:
        return Exit.DONE
    if status.held:
        topics = ", ".join(map(on_one_line, status.held))
        complain(f"nobody is subscribed to {topics}; what is left of these topics waits in the outbox")
        return Exit.NOT_FOUND
    return Exit.FAILED if status.refused else Exit.DONE


def _say(options: argparse.Namespace, relay: Relay, status: RelayStatus) -> None:
    if options.json:
        facts = {"bus": options.bus, "pid": os.getpid(), "db": relay.url, "state": status.state}
        counts = {"published": status.published, "refused": status.refused, "dropped": status.dropped}
        print_json({**facts, **counts, "held": list(status.held)}, line=True)
        return
    text = f"{options.bus}: {status.state}, {relay.url}"
    if status.state == "stopped":
        text += f", {shown_count(status.published, 'event')} published"
        for count, what in ((status.dropped, "dropped"), (status.refused, "refused")):
            text += f", {count:,} {what}" if count else ""
    print(text, flush=True)
