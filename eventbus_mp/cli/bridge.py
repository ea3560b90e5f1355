"""`eventbus-mp bridge`: a bus over several hosts, as a service."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, at_least, seconds
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._stopping import stop_on_signals
from eventbus_mp.cli._text import print_json, shown_count
from eventbus_mp.client.bus import EventBus

if TYPE_CHECKING:
    from eventbus_mp.addons.bridge import Bridge
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("bridge", help="carry a bus's events to other hosts and theirs here (needs nats-py)")
    add_bus(parser)
    parser.add_argument(
        "--nats", required=True, metavar="URL[,URL]", help="NATS servers with JetStream, as nats://nats1:4222"
    )
    parser.add_argument("--cluster", metavar="NAME", help="all hosts of a cluster share it (default: the bus's name)")
    parser.add_argument("--host", metavar="NAME", help="of this host; no other has it (default: the machine's)")
    parser.add_argument(
        "--topics", action="append", default=[], metavar="RE", help="only these leave this host; may be repeated"
    )
    parser.add_argument(
        "--host-grace",
        type=seconds,
        default=300.0,
        metavar="S",
        help="for how long events wait for a host that is away (default: 300)",
    )
    parser.add_argument(
        "--while-away", choices=("wait", "skip"), default="wait", help="what becomes of them (default: wait)"
    )
    parser.add_argument("--creds", metavar="FILE", help="the user's JWT and seed")
    parser.add_argument("--tls-ca", metavar="FILE", help="who signs the servers' certificates")
    parser.add_argument("--tls-cert", metavar="FILE", help="this host's certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument(
        "--replicas", type=at_least(1), default=1, metavar="N", help="servers that keep each letter (default: 1)"
    )
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Be the bridge until a signal comes. Settings are taken from `EVENTBUS_MP_*` variables."""
    from eventbus_mp.addons.bridge import Bridge
    from eventbus_mp.worker.service_log import set_up_logging

    set_up_logging(logging.INFO)
    logging.getLogger("eventbus_mp.bridge").setLevel(logging.INFO)
    with EventBus(options.bus, run_dir=str(run_root(options))) as bus:
        bridge = Bridge(
            bus,
            options.nats,
            cluster=options.cluster,
            host=options.host,
            topics=options.topics,
            host_grace_s=options.host_grace,
            while_away=options.while_away,
            creds=options.creds,
            tls_ca=options.tls_ca,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            replicas=options.replicas,
        )
        stop_on_signals(bridge.ask_to_stop)
        with bridge:
            _say(options, bridge)
            bridge.wait()
        _say(options, bridge)
    return Exit.DONE


def _say(options: argparse.Namespace, bridge: Bridge) -> None:
    status, host, cluster = bridge.status(), bridge.settings.host, bridge.settings.cluster
    if options.json:
        facts = {"bus": options.bus, "pid": os.getpid(), "cluster": cluster, "host": host, "state": status.state}
        print_json({**facts, "sent": status.sent, "imported": status.imported}, line=True)
        return
    text = f"{options.bus}: {status.state}, host {host} of cluster {cluster}"
    if status.state == "stopped":
        text += f", {shown_count(status.sent, 'event')} sent, {status.imported:,} came"
    print(text, flush=True)
