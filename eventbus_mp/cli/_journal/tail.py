"""`eventbus-mp journal tail`: events as they are stored."""

from __future__ import annotations

import argparse
import signal
from dataclasses import replace
from itertools import islice
from threading import Event as Flag
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, at_least
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal._select import add_selection, entry_json, selection_of
from eventbus_mp.cli._journal._store import add_db, opened_store
from eventbus_mp.cli._payload import read_data, shown_data
from eventbus_mp.cli._text import complain, on_one_line, print_json, shown_moment

if TYPE_CHECKING:
    from eventbus_mp.addons.journal import Entry
    from eventbus_mp.cli import Commands

__all__ = ["add_parser", "run"]

LOOK_S = 0.25
"""How often to look for new entries."""


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("tail", help="print events as they are stored, until Ctrl-C")
    add_bus(parser)
    add_db(parser)
    add_selection(parser)
    parser.add_argument("--lines", "-n", type=at_least(0), default=10, metavar="N", help="begin with the last N (10)")
    parser.add_argument("--count", type=at_least(0), metavar="N", help="end after N events")
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Follow the journal until a signal comes, or until there were enough."""
    from eventbus_mp.addons.journal.pages import entries_of
    from eventbus_mp.addons.journal.store import StoreUnavailable

    stop = Flag()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with opened_store(options) as store:
        selection = selection_of(options)
        last = list(islice(entries_of(store, selection, newest_first=True), options.lines))
        for entry in islice(reversed(last), options.count):
            _show(entry, options)
        left = None if options.count is None else max(0, options.count - len(last))
        after = last[0].position if last else max(selection.after, store.last_position())
        is_away = False
        while left != 0:
            try:
                for entry in islice(entries_of(store, replace(selection, after=after)), left):
                    _show(entry, options)
                    after = entry.position
                    left = None if left is None else left - 1
                    if stop.is_set():
                        break
                is_away = False
            except StoreUnavailable as error:
                if not is_away:
                    complain(f"{error}; what was stored meanwhile follows when it is back")
                is_away = True
            if stop.wait(LOOK_S):
                break
    return Exit.DONE


def _show(entry: Entry, options: argparse.Namespace) -> None:
    if options.json:
        print_json(entry_json(entry), line=True)
        return
    from eventbus_mp.addons.journal import event_of

    row = entry.row
    data, error = read_data(event_of(row))
    shown = f"({error})" if error else shown_data(data, line=True)
    at = shown_moment(row.recorded_ns)
    print(on_one_line(f"{entry.position}  {at}  {row.topic}  {row.id!r}  {shown}"), flush=True)
