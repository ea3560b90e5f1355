"""Rows for the tests of the journal."""

from __future__ import annotations

from typing import Any

from eventbus_mp import Event
from eventbus_mp.addons.journal.row import Row, row_of

__all__ = ["SECOND_NS", "entries_of", "keys", "plain", "row", "rows"]

SECOND_NS = 1_000_000_000


def row(id: str | int, topic: str = "order", *, at_s: int = 0, data: Any = None, **fields: Any) -> Row:
    """The row of an event that was recorded `at_s` seconds after the epoch."""
    return row_of(Event(id, topic, data, **fields), at_s * SECOND_NS, 1_000)


def rows(count: int, topic: str = "order", *, begin: int = 0, at_s: int = 0) -> list[Row]:
    """Rows with the ids "0", "1" and so on."""
    return [row(str(number), topic, at_s=at_s) for number in range(begin, begin + count)]


def keys(entries: list[Any]) -> list[tuple[str, str | int]]:
    """(topic, id) of entries."""
    return [(entry.row.topic, entry.row.id) for entry in entries]


def entries_of(entries: list[Any]) -> list[Row]:
    """Their rows, with bytes in the place of views."""
    return [plain(entry.row) for entry in entries]


def plain(found: Row) -> Row:
    """With bytes in the place of views."""
    return found._replace(data=bytes(found.data), buffers=bytes(found.buffers) if found.buffers is not None else None)
