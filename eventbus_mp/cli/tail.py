"""`eventbus-mp tail`: print events as they are published."""

from __future__ import annotations

import argparse
import datetime
import os
import select
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from eventbus_mp.cli._arguments import add_bus, add_json, at_least
from eventbus_mp.cli._completion import completes_topics
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._following import Following
from eventbus_mp.cli._payload import event_json, read_data, shown_data
from eventbus_mp.cli._running import joined_bus
from eventbus_mp.cli._text import complain, on_one_line, print_json, shown_count

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.client.bus import EventBus
    from eventbus_mp.events import Event

__all__ = ["add_parser", "run"]

LOOK_S = 1.0
"""How often to look whether somebody still reads what is printed, while there is nothing to print."""


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("tail", help="print events as they are published, until Ctrl-C")
    add_bus(parser)
    patterns = parser.add_argument(
        "pattern", nargs="*", help="only topics that one of these regular expressions matches (default: all topics)"
    )
    completes_topics(patterns)
    parser.add_argument("--count", type=at_least(0), metavar="N", help="end after N events")
    add_json(parser, lines=True)
    return parser


class _Pause:
    """Whether Ctrl-Z was pressed. An exception in the middle of subscribing would leave a subscriber behind."""

    def __init__(self) -> None:
        self.is_asked = False
        self.following: Following | None = None

    def ask(self, number: int, frame: object) -> None:
        """The signal handler."""
        self.is_asked = True
        if self.following is not None:
            self.following.wake()

    def take(self) -> None:
        """Stop this process, if that was asked, until somebody lets it go on."""
        if self.is_asked:
            self.is_asked = False
            os.kill(os.getpid(), signal.SIGSTOP)


def run(options: argparse.Namespace) -> int:
    """Follow the events until a signal comes, or until there were enough."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    pause = _Pause()
    signal.signal(signal.SIGTSTP, pause.ask)
    try:
        with joined_bus(options) as bus:
            left = options.count
            while left != 0:
                left = _follow(bus, options, left, pause)
                pause.take()
    except KeyboardInterrupt:
        return Exit.DONE
    return Exit.DONE


def _follow(bus: EventBus, options: argparse.Namespace, left: int | None, pause: _Pause) -> int | None:
    """Print events until there were `left` of them, or until Ctrl-Z: how many are left. None: there is no limit.

    While this process is stopped, nobody would complete what comes for it. So it is not subscribed then.
    """
    following = Following(bus, options.pattern or [""])
    try:
        with following:
            pause.following = following
            while left != 0 and not pause.is_asked:
                event = following.get(LOOK_S)
                if event is None:
                    _check_reader()
                    continue
                _show(event, options, flush=following.is_idle())
                left = left - 1 if left is not None else None
                if following.is_idle():
                    _say_missed(following)
    finally:
        _say_missed(following)
    return left


def _say_missed(following: Following) -> None:
    missed = following.take_missed()
    if missed:
        complain(f"{shown_count(missed, 'event')} not shown: they came faster than this prints")


def _check_reader() -> None:
    """Raises:
    BrokenPipeError: Nobody reads what is printed any more.
    """
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    if any(found & (select.POLLERR | select.POLLHUP) for _, found in poller.poll(0)):
        raise BrokenPipeError


def _show(event: Event, options: argparse.Namespace, *, flush: bool) -> None:
    if options.json:
        print_json(event_json(event), line=True)
        return
    data, error = read_data(event)
    shown = f"({error})" if error else shown_data(data, line=True)
    line = on_one_line(f"{datetime.datetime.now():%H:%M:%S.%f}  {event.topic}  {event.id!r}  {shown}")
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        line = line if len(line) <= width else f"{line[: width - 3]}..."
    print(line, flush=flush)
