"""`eventbus-mp publish`: publish one event, or one for each line of JSON from standard input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eventbus_mp.cli._arguments import add_bus, add_json, add_topic, seconds
from eventbus_mp.cli._event import add_int, event_id, no_such_topic
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._running import joined_bus
from eventbus_mp.cli._text import complain, print_json, shown_count
from eventbus_mp.errors import EventBusError, UsageError
from eventbus_mp.events import Event
from eventbus_mp.ids import unique_id

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.client.bus import EventBus

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("publish", help="publish an event, or one for each line of standard input")
    add_bus(parser)
    add_topic(parser)
    parser.add_argument("data", help="the event's data, as JSON; -: one value a line from standard input")
    parser.add_argument("--id", help="its id, a text; with --int, an integer (default: a new one)")
    add_int(parser)
    parser.add_argument("--source", help="who publishes it")
    parser.add_argument("--transaction-id", metavar="ID", help="what it belongs to")
    parser.add_argument("--ttl", type=int, metavar="N", help="how long it may wait, in the time unit of the bus")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    parser.add_argument("--wait", type=seconds, metavar="S", help="wait until it is settled, S seconds at most")
    parser.add_argument("--quiet", "-q", action="store_true", help="do not print the ids")
    add_json(parser, lines=True)
    return parser


def run(options: argparse.Namespace) -> int:
    """Publish, and print the id of each event."""
    if options.data == "-" and options.id is not None:
        raise UsageError("publish: --id names one event, and standard input may have many")
    fields = _fields(options)
    with joined_bus(options) as bus:
        if not bus.topic_exists(options.topic):
            return no_such_topic(bus, options.topic)
        unheard = published = 0
        try:
            for data in _values(options.data):
                unheard += not _publish(bus, options, data, fields)
                published += 1
        except EventBusError:
            if published:
                complain(f"{shown_count(published, 'event')} before it {'was' if published == 1 else 'were'} published")
            raise
    if unheard:
        complain(f"nobody is subscribed to topic {options.topic!r}: {shown_count(unheard, 'event')} dropped")
        return Exit.NOT_FOUND
    return Exit.DONE


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields that all events have."""
    headers = {}
    for header in options.header:
        name, sign, value = header.partition("=")
        if not sign:
            raise UsageError(f"--header {header!r}: write NAME=VALUE")
        headers[name] = value
    fields = {"source": options.source, "transaction_id": options.transaction_id, "ttl": options.ttl}
    fields = {name: value for name, value in fields.items() if value is not None}
    return {**fields, "headers": headers} if headers else fields


def _values(text: str) -> Iterator[Any]:
    """The data of each event, as soon as its line has come.

    Raises:
        UsageError: It is not JSON; the text names the line.
    """
    if text != "-":
        yield _parsed(text, "the data")
        return
    for number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            yield _parsed(line, f"line {number} of standard input")


def _parsed(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as cause:
        raise UsageError(f"{what} is not JSON ({cause}): {text!r:.80}; a text needs its quotes: '\"paid\"'") from cause


def _publish(bus: EventBus, options: argparse.Namespace, data: Any, fields: dict[str, Any]) -> bool:
    """Publish one event, and print its id; whether anybody gets it."""
    given = event_id(options) if options.id is not None else unique_id()
    event = Event(given, options.topic, data, **fields)
    if options.wait is not None:
        is_heard = bool(bus.notify_and_wait(event, timeout_s=options.wait).subscribers)
    else:
        is_heard = not bus.notify(event).dropped
    if options.json:
        print_json({"topic": options.topic, "id": given, "published": is_heard}, line=True)
    elif is_heard and not options.quiet:
        print(given if isinstance(given, str) else repr(given), flush=True)
    return is_heard
