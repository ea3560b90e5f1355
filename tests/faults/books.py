"""The books that the processes of a chaos run keep, and what has to be true of them.

Each process writes one: a line for each event that it tried to publish, has published, got, wants once more, or marked
without having got it. The clock is that of the machine, the same for all of them.
"""

from __future__ import annotations

import os
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from eventbus_mp.ids import EventId

__all__ = ["Book", "EventKey", "Line", "never_came", "read_books", "twice"]

EventKey = tuple[str, str]
"""Topic, and the id as Python writes it: 7 and "7" are two."""


class Line(NamedTuple):
    """A line of a book."""

    at_ns: int
    process: str
    verb: str
    """"tried": before `notify`. "sent": it has returned. "got": by a handler or from an inbox. "again": before the
    event is released, tried again or failed. "marked": before it is marked."""
    event: EventKey
    checksum: int
    """Of its bytes; 0 if the process has not read them."""


class Book:
    """A file that one process appends to; whole lines, so a killed writer leaves at most its last one out."""

    def __init__(self, folder: Path, process: str) -> None:
        self._fd = os.open(folder / process, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, verb: str, topic: str, id: EventId, data: bytes | None = None) -> None:
        checksum = zlib.crc32(data) if data is not None else 0
        os.write(self._fd, f"{time.monotonic_ns()} {verb} {topic} {id!r} {checksum}\n".encode())


def read_books(folder: Path) -> list[Line]:
    """All lines of all books, in the order in which they were written."""
    lines = []
    for path in folder.iterdir():
        for text in path.read_text().splitlines():
            at_ns, verb, topic, id, checksum = text.split(" ")
            lines.append(Line(int(at_ns), path.name, verb, (topic, id), int(checksum)))
    return sorted(lines, key=lambda line: line.at_ns)


def twice(lines: Iterable[Line], died_ns: Mapping[str, int]) -> list[str]:
    """What a process of a subscriber got while another one, or itself, was alive, had it, and did not want it again.

    Args:
        lines: Of all processes of one subscriber, in their order.
        died_ns: When those that were killed were killed, or a moment before.
    """
    wrong, holders = [], defaultdict[EventKey, list[str]](list)
    for line in lines:
        having = holders[line.event]
        if line.verb == "again":
            having.remove(line.process)
        elif line.verb == "got":
            alive = [name for name in having if line.at_ns < died_ns.get(name, line.at_ns + 1)]
            if alive:
                wrong.append(f"{line.process} got {line.event} although {alive} had it")
            holders[line.event] = [*alive, line.process]
    return wrong


def never_came(lines: Iterable[Line], wanted: Iterable[EventKey]) -> list[str]:
    """What a subscriber was to get and never got, or wanted again and never got again, although nobody marked it."""
    last: dict[EventKey, Line] = {}
    marked = set()
    for line in lines:
        if line.verb == "marked":
            marked.add(line.event)
        else:
            last[line.event] = line
    lost = [f"{event} never came" for event in sorted(set(wanted) - set(last) - marked)]
    return lost + [
        f"{event} never came again to {line.process}"
        for event, line in sorted(last.items())
        if line.verb == "again" and event not in marked
    ]
