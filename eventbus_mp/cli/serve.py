"""`eventbus-mp serve`: run a bus as a service of its own, which the end of no other service touches."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import run_root
from eventbus_mp.cli._text import print_json, shown_bytes
from eventbus_mp.client.bus import EventBus

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]

LOOK_S = 5.0
"""How often to look whether the bus is there; if it was lost, looking starts it again."""


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("serve", help="start a bus, and keep it until SIGTERM or Ctrl-C")
    add_bus(parser)
    parser.add_argument("--topic", action="append", default=[], metavar="TOPIC", help="register it; may be repeated")
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Be a process of the bus until a signal comes. Settings are taken from `EVENTBUS_MP_*` variables."""
    is_asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_asked.set())
    with EventBus(options.bus, options.topic, run_dir=str(run_root(options))) as bus:
        manager_pid = 0
        while not is_asked.is_set():
            now = bus.statistics()
            if now.manager_pid != manager_pid:
                manager_pid = now.manager_pid
                _say_serving(options, manager_pid, now.memory_bytes_max)
            is_asked.wait(LOOK_S)
    if options.json:
        print_json({"bus": options.bus, "left": True}, line=True)
    else:
        print(f"{options.bus}: left; the manager stays while other processes use the bus", flush=True)
    return Exit.DONE


def _say_serving(options: argparse.Namespace, manager_pid: int, memory_bytes_max: int) -> None:
    if options.json:
        facts = {"bus": options.bus, "manager_pid": manager_pid, "memory_bytes_max": memory_bytes_max}
        print_json(facts, line=True)
    else:
        print(f"{options.bus}: manager {manager_pid}, {shown_bytes(memory_bytes_max)} of memory", flush=True)
