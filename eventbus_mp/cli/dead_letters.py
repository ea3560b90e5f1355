"""`eventbus-mp dead-letters`: what failed, why, and for whom; and send it again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from eventbus_mp.cli._arguments import add_bus, add_json, add_limit
from eventbus_mp.cli._completion import completes_topics
from eventbus_mp.cli._event import add_event, add_int, event_of
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._payload import event_json, show_event
from eventbus_mp.cli._running import running_bus
from eventbus_mp.cli._text import complain, print_json, print_table, shown_count, shown_key, shown_moment
from eventbus_mp.errors import UsageError
from eventbus_mp.history import json_key

if TYPE_CHECKING:
    from eventbus_mp.cli import Commands
    from eventbus_mp.client.bus import EventBus
    from eventbus_mp.client.dead_letters import DeadLetter

__all__ = ["add_parser", "run"]

LOOKED_THROUGH_MAX = 1_000_000


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    parser = commands.add_parser("dead-letters", help="list, show and redeliver what failed")
    actions = parser.add_subparsers(required=True, metavar="action")
    listing = actions.add_parser("ls", help="list the dead letters, the oldest first")
    add_bus(listing)
    add_limit(listing)
    add_json(listing)
    listing.set_defaults(act=_list)
    showing = actions.add_parser("show", help="show why an event failed, and the event")
    add_event(showing)
    add_json(showing)
    showing.set_defaults(act=_show)
    _add_redeliver(actions)
    return parser


def _add_redeliver(actions: Commands) -> None:
    parser = actions.add_parser("redeliver", help="send dead letters again to the subscriber that failed")
    add_bus(parser)
    completes_topics(parser.add_argument("topic", nargs="?", help="only events of this topic"))
    parser.add_argument("id", nargs="?", help="only the event of this id, a text; with --int, an integer")
    add_int(parser)
    parser.add_argument("--all", action="store_true", help="all dead letters")
    parser.add_argument("--subscriber", metavar="NAME", help="only what failed for the subscriber of this name")
    add_json(parser)
    parser.set_defaults(act=_redeliver)


def run(options: argparse.Namespace) -> int:
    """List, show or redeliver."""
    with running_bus(options) as bus:
        return int(options.act(bus, options))


def _list(bus: EventBus, options: argparse.Namespace) -> int:
    letters = bus.dead_letters(limit=options.limit)
    if options.json:
        print_json([_as_dict(letter) for letter in letters])
        return Exit.DONE
    print_table(
        ("topic", "id", "subscriber", "failed", "attempts", "why"),
        [
            (
                letter.shadow.topic,
                repr(letter.shadow.id),
                shown_key(letter.subscriber),
                _moment(letter.last_failed_at_s),
                letter.attempts,
                f"{letter.error}: {letter.text}" if letter.error else letter.reason,
            )
            for letter in letters
        ],
        droppable=("failed",),
    )
    if not letters:
        print("no dead letter")
    elif len(letters) == options.limit:
        print("perhaps there are more; --limit N shows them")
    return Exit.DONE


def _show(bus: EventBus, options: argparse.Namespace) -> int:
    wanted = event_of(options)
    letters = [letter for letter in bus.dead_letters(limit=LOOKED_THROUGH_MAX) if letter.shadow == wanted]
    if not letters:
        return _no_letter(f"no dead letter of topic {wanted[0]!r} has the id {wanted[1]!r}")
    found = bus.fetch_event(letters[0].shadow)
    event = found.copy() if found is not None else None
    if options.json:
        print_json(
            {
                "letters": [_as_dict(letter) for letter in letters],
                "event": event_json(event) if event is not None else None,
            }
        )
        return Exit.DONE
    for letter in letters:
        print("\n".join(_lines(letter)))
    return show_event(event) if event is not None else Exit.DONE


def _lines(letter: DeadLetter) -> list[str]:
    lines = [
        f"{'subscriber':<15}{shown_key(letter.subscriber)}",
        f"{'reason':<15}{letter.reason}",
        f"{'attempts':<15}{letter.attempts}",
        f"{'first failed':<15}{_moment(letter.first_failed_at_s) or 'never tried'}",
        f"{'last failed':<15}{_moment(letter.last_failed_at_s) or 'never tried'}",
        f"{'error':<15}{letter.error}: {letter.text}" if letter.error else f"{'error':<15}{letter.text or 'none'}",
    ]
    return [*lines, *(f"    {line}" for line in letter.traceback.splitlines())]


def _redeliver(bus: EventBus, options: argparse.Namespace) -> int:
    if options.all == (options.topic is not None):
        raise UsageError("dead-letters redeliver: give a topic, or a topic and an id, or --all")
    if options.all and options.subscriber is None:
        sent = bus.redeliver()
    else:
        letters = _chosen(bus, options)
        if not letters:
            return _no_letter("no dead letter is of that kind")
        sent = sum(bus.redeliver(letter) for letter in letters)
    if options.json:
        print_json({"bus": options.bus, "sent": sent})
    else:
        print(f"{shown_count(sent, 'dead letter')} sent again")
    return Exit.DONE


def _chosen(bus: EventBus, options: argparse.Namespace) -> list[DeadLetter]:
    """The dead letters that the arguments mean."""
    wanted = event_of(options) if options.id is not None else None
    return [
        letter
        for letter in bus.dead_letters(limit=LOOKED_THROUGH_MAX)
        if (wanted is None or letter.shadow == wanted)
        and options.topic in (None, letter.shadow.topic)
        and options.subscriber in (None, letter.subscriber.text)
    ]


def _no_letter(text: str) -> int:
    complain(f"{text}; see eventbus-mp dead-letters ls")
    return Exit.NOT_FOUND


def _moment(at_s: float | None) -> str | None:
    return shown_moment(round(at_s * 1e9)) if at_s is not None else None


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    return {
        "topic": letter.shadow.topic,
        "id": letter.shadow.id,
        "subscriber": json_key(letter.subscriber),
        "reason": letter.reason,
        "error": letter.error,
        "text": letter.text,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "first_failed_at_s": letter.first_failed_at_s,
        "last_failed_at_s": letter.last_failed_at_s,
    }
