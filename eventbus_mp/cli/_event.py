"""How an event is named on the command line, and what a command says if there is none.

An id is a text or an integer, and `7` and `"7"` are two ids. On the command line an id is a text unless `--int` stands
beside it, whatever it looks like: a script whose ids happen to be digits must not mean another event for that.
"""

from __future__ import annotations

import argparse

from eventbus_mp.cli._arguments import add_bus, add_topic
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._text import complain
from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import UsageError
from eventbus_mp.ids import EventId

__all__ = ["add_event", "add_int", "event_id", "event_of", "no_such_event", "no_such_topic"]


def add_event(parser: argparse.ArgumentParser) -> None:
    """Add bus, topic and id of an event."""
    add_bus(parser)
    add_topic(parser)
    parser.add_argument("id", help="the event's id, a text; with --int, an integer")
    add_int(parser)


def add_int(parser: argparse.ArgumentParser) -> None:
    """Add the option `--int`."""
    parser.add_argument("--int", action="store_true", help="the id is an integer: 7, and not the text '7'")


def event_id(options: argparse.Namespace) -> EventId:
    """The id that was given.

    Raises:
        UsageError: It is not an integer, and `--int` says that it is.
    """
    try:
        return int(options.id) if options.int else str(options.id)
    except ValueError as cause:
        raise UsageError(f"--int: {options.id!r} is not an integer") from cause


def event_of(options: argparse.Namespace) -> tuple[str, EventId]:
    """The (topic, id) that was given; raises as `event_id`."""
    return options.topic, event_id(options)


def no_such_event(bus: EventBus, event: tuple[str, EventId], *, what: str) -> int:
    """Say that there is no such event, and what may have been meant; the exit code.

    Args:
        bus: The bus.
        event: What was looked for.
        what: What such an event would be, for example "remembered".
    """
    topic, wanted = event
    if not bus.topic_exists(topic):
        return no_such_topic(bus, topic)
    other = _other_kind(wanted)
    hint = ""
    if other is not None and bus.story((topic, other)):
        hint = f"; there is {other!r}: " + ("add --int" if isinstance(other, int) else "leave out --int")
    complain(f"no event {wanted!r} of topic {topic!r} is {what}{hint}")
    return Exit.NOT_FOUND


def no_such_topic(bus: EventBus, topic: str) -> int:
    """Say that the topic is not registered, and which ones are; the exit code."""
    import difflib

    topics = bus.topics()
    near = difflib.get_close_matches(topic, topics, n=3)
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else f"eventbus-mp topics {bus.name} lists them"
    complain(f"topic {topic!r} is not registered on bus {bus.name!r}; {meant if topics else 'it has no topic at all'}")
    return Exit.NOT_FOUND


def _other_kind(wanted: EventId) -> EventId | None:
    """The integer that a text looks like, or the other way round."""
    if isinstance(wanted, int):
        return str(wanted)
    return int(wanted) if wanted.removeprefix("-").isascii() and wanted.removeprefix("-").isdecimal() else None
