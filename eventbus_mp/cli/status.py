"""`eventbus-mp status`: the buses that run, or the numbers of one of them, as tables or as JSON."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import run_root, running_bus, running_names
from eventbus_mp.cli._text import on_one_line, print_json, print_table, shown_bytes, shown_seconds
from eventbus_mp.cli.subscribers import show_subscribers
from eventbus_mp.cli.topics import show_topics

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.snapshot import ManagerSnapshot, ProcessSnapshot, Snapshot

__all__ = ["add_parser", "headline", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("status", help="show a running bus, or list those there are")
    add_bus(parser, optional="without one, the buses there are")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """List the running buses, or show one."""
    if options.bus is None:
        root = run_root(options)
        running = running_names(root)
        if options.json:
            print_json(running)
        else:
            print("\n".join(running) if running else f"no bus is running below {root}")
        return Exit.DONE
    with running_bus(options) as bus:
        snapshot = bus.snapshot()
    if options.json:
        print_json(snapshot.as_dict())
    else:
        _show_snapshot(snapshot)
    return Exit.DONE


def _show_snapshot(now: Snapshot) -> None:
    """Print all of it."""
    print("\n".join(headline(now)))
    if now.topics:
        print()
        show_topics(now, {topic.name for topic in now.topics})
    if now.subscribers:
        print()
        show_subscribers(list(now.subscribers), patterns=False)
    print()
    _show_processes(now.processes)


def headline(now: Snapshot) -> list[str]:
    """The bus, its events and its memory, a line each."""
    manager, memory, events = now.manager, now.memory, now.events
    takeovers = f", {manager.takeovers} takeovers" if manager.takeovers else ""
    return [
        f"bus {now.bus}, incarnation {manager.incarnation}, up {shown_seconds(manager.uptime_s)}"
        f"{takeovers}{_leaving(manager)}",
        f"events   {events.unsettled} unsettled, {events.notified} notified, {events.dropped} dropped",
        f"memory   {shown_bytes(memory.bytes_used)} of {shown_bytes(memory.bytes_max)} in use, "
        f"{shown_bytes(memory.bytes_leased)} kept by views, {shown_bytes(memory.bytes_spilled)} in files",
    ]


def _leaving(manager: ManagerSnapshot) -> str:
    asked = ", asked to end" if manager.is_end_asked else ""
    return f"{asked}, leaves in {shown_seconds(manager.leaves_in_s)}" if manager.leaves_in_s is not None else asked


def _show_processes(processes: tuple[ProcessSnapshot, ...]) -> None:
    """Print the table of these processes."""
    print_table(
        ("pid", "role", "in flight", "written", "viewed", "command"),
        [
            (
                item.pid,
                item.role,
                item.in_flight,
                shown_bytes(item.bytes_written),
                shown_bytes(item.bytes_viewed) if item.views else None,
                on_one_line(item.command),
            )
            for item in processes
        ],
        droppable=("viewed",),
    )
