"""The rows that `top` shows: the numbers of a snapshot, and how fast they have changed since the one before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from eventbus_mp.cli._text import on_one_line, shown_bytes, shown_key, shown_seconds
from eventbus_mp.snapshot import Snapshot, SubscriberSnapshot

__all__ = ["TABLES", "Numbers", "Row", "Table", "chosen"]


class Numbers(NamedTuple):
    """Two snapshots of a bus, and the seconds between them."""

    now: Snapshot
    before: Snapshot
    seconds: float

    def rate(self, now: int, before: int | None) -> float:
        """How much was added in a second; 0 for what was not there before, and after the bus has started anew."""
        return max(0, now - before) / self.seconds if before is not None and self.seconds > 0 else 0.0

    def notified_per_s(self) -> list[float]:
        """The rate of each topic, in the order of the newer snapshot."""
        before = {item.name: item.notified for item in self.before.topics}
        return [self.rate(item.notified, before.get(item.name)) for item in self.now.topics]

    def completed_per_s(self) -> list[float]:
        """The rate of each subscriber, in the order of the newer snapshot."""
        before = {_place(item): item.completed for item in self.before.subscribers}
        return [self.rate(item.completed, before.get(_place(item))) for item in self.now.subscribers]

    def as_dict(self) -> dict[str, Any]:
        """The newer snapshot and the rates, as values that JSON has."""
        topics, subscribers = self.now.topics, self.now.subscribers
        return {
            "seconds": self.seconds,
            "snapshot": self.now.as_dict(),
            "notified_per_s": {item.name: rate for item, rate in zip(topics, self.notified_per_s(), strict=True)},
            "completed_per_s": [
                {"name": item.name, "host": item.host, "rate": rate}
                for item, rate in zip(subscribers, self.completed_per_s(), strict=True)
            ],
        }


def _place(item: SubscriberSnapshot) -> tuple[str, str]:
    """By what a subscriber is found again; a config need not have a hash."""
    return item.key.text, repr(item.config)


class Row(NamedTuple):
    """One line of a table."""

    key: tuple[Any, ...]
    """What it is about."""
    cells: tuple[str, ...]
    order: tuple[Any, ...]
    """What its cells are sorted by."""


class Table(NamedTuple):
    """One of the three."""

    name: str
    heads: tuple[str, ...]
    rows: Callable[[Numbers], list[Row]]
    sorted_by: int
    """The column by which it is sorted at first, the largest in front."""


def _row(key: tuple[Any, ...], *pairs: tuple[Any, str | None]) -> Row:
    return Row(key, tuple(text or "-" for _, text in pairs), tuple(value for value, _ in pairs))


def _count(value: int) -> tuple[int, str]:
    return value, f"{value:,}"


def _per_second(value: float) -> tuple[float, str]:
    return value, f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"


def _time(value: float | None) -> tuple[float, str | None]:
    return value or 0.0, shown_seconds(value)


def _size(value: int) -> tuple[int, str]:
    return value, shown_bytes(value)


def _topics(numbers: Numbers) -> list[Row]:
    return [
        _row(
            (item.name,),
            (item.name, on_one_line(item.name)),
            _per_second(rate),
            _count(item.unsettled),
            _time(item.oldest_age_s),
            _size(item.bytes_unsettled),
            _count(item.dropped),
        )
        for item, rate in zip(numbers.now.topics, numbers.notified_per_s(), strict=True)
    ]


def _subscribers(numbers: Numbers) -> list[Row]:
    return [
        _row(
            _place(item),
            (item.key.text, shown_key(item.key)),
            _per_second(rate),
            _count(item.queued),
            _count(item.in_flight),
            _time(item.handling_p50_s),
            _time(item.handling_p99_s),
            _count(item.skipped),
            _count(item.redelivered),
        )
        for item, rate in zip(numbers.now.subscribers, numbers.completed_per_s(), strict=True)
    ]


def _processes(numbers: Numbers) -> list[Row]:
    return [
        _row(
            (item.pid,),
            (item.pid, str(item.pid)),
            (item.role, item.role),
            _count(item.in_flight),
            _size(item.bytes_written),
            _size(item.bytes_viewed),
            (item.command, on_one_line(item.command)),
        )
        for item in numbers.now.processes
    ]


TABLES = (
    Table("topics", ("topic", "events/s", "unsettled", "oldest", "bytes", "dropped"), _topics, 2),
    Table(
        "subscribers",
        ("subscriber", "done/s", "queued", "in flight", "p50", "p99", "skipped", "again"),
        _subscribers,
        2,
    ),
    Table("processes", ("pid", "role", "in flight", "written", "viewed", "command"), _processes, 2),
)


def chosen(rows: Iterable[Row], wanted: re.Pattern[str] | None, column: int, *, largest_first: bool) -> list[Row]:
    """The rows of which a cell has what is wanted, by this column."""
    found = [row for row in rows if wanted is None or any(wanted.search(cell) for cell in row.cells)]
    return sorted(found, key=lambda row: row.order[column], reverse=largest_first)
