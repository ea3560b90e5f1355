"""The questions that a SQLite store answers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from eventbus_mp.addons.checks import checked_count
from eventbus_mp.addons.journal.row import Entry, Row
from eventbus_mp.addons.journal.run_columns import RUN_COLUMNS, run_of
from eventbus_mp.addons.journal.selecting import Condition, condition_of, first_position_at
from eventbus_mp.addons.journal.sqlite.connection import Database
from eventbus_mp.addons.journal.sqlite.schema import COLUMNS, REJECTED_COLUMNS
from eventbus_mp.addons.journal.store import Heading, Rejected, Run, Selection, StoreUnavailable

__all__ = ["ReadingStore"]

new_tuple = tuple.__new__
_ENTRIES = f"SELECT position, {COLUMNS.replace('topic', 'name', 1)} FROM events JOIN topics ON number = topic"
# The length of a blob is in front of it: what is long is not read for it.
_HEADINGS = (
    "SELECT position, name, event_id, transaction_id, source, recorded_ns, length(data) + coalesce(length(buffers), 0) "
    "FROM events JOIN topics ON number = topic"
)


class ReadingStore(Database):
    """The part of `SqliteStore` that reads."""

    def page(self, selection: Selection, limit: int, *, newest_first: bool = False) -> list[Entry]:
        """Up to `limit` of the selected entries, by position."""
        return [_entry(found) for found in self._page(_ENTRIES, selection, limit, newest_first)]

    def headings(self, selection: Selection, limit: int, *, newest_first: bool = False) -> list[Heading]:
        """As `page`, at a cost that does not grow with the size of the entries."""
        return [Heading._make(found) for found in self._page(_HEADINGS, selection, limit, newest_first)]

    def count(self, selection: Selection) -> int:
        """How many entries are selected."""
        return sum(self.count_per_topic(selection).values())

    def count_per_topic(self, selection: Selection) -> dict[str, int]:
        """How many of each topic, by name; only topics that have any."""
        query = "SELECT topic, count(*) FROM events WHERE {} GROUP BY topic"
        counts = dict(self._selected(query, selection))
        names = {number: name for name, number in self._topics().items()}
        return {
            name: counts[number] for number, name in sorted(names.items(), key=lambda one: one[1]) if number in counts
        }

    def _page(self, columns: str, selection: Selection, limit: int, newest_first: bool) -> list[Any]:
        order = f"ORDER BY position {'DESC' if newest_first else 'ASC'}"
        return self._selected(f"{columns} WHERE {{}} {order} LIMIT {checked_count('limit', limit, 0)}", selection)

    def _selected(self, query: str, selection: Selection) -> list[Any]:
        with self._reading() as db:
            condition = condition_of(selection, self._topics(), self.position_at, "?", _of_transaction)
            if condition is None:
                return []
            return db.execute(query.format(condition.text), condition.parameters).fetchall()

    def _topics(self) -> dict[str, int]:
        with self._reading() as db:
            return dict(db.execute("SELECT name, number FROM topics"))

    def find(self, topic: str, id: str | int) -> Entry | None:
        """The entry of this topic and id."""
        with self._reading() as db:
            found = db.execute(f"{_ENTRIES} WHERE name = ? AND event_id = ?", (topic, id)).fetchone()
            return _entry(found) if found is not None else None

    def topics(self) -> list[str]:
        """The names of all topics that have or had entries, sorted."""
        return sorted(self._topics())

    def last_position(self) -> int:
        """The highest position that is there; 0: there is no entry."""
        with self._reading() as db:
            return int(db.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])

    def size_bytes(self) -> int:
        """How much room the file and its write-ahead log take."""
        try:
            size = self.path.stat().st_size
        except OSError as cause:
            raise StoreUnavailable(f"{self.path}: {cause.strerror}") from cause
        with suppress(FileNotFoundError):
            size += Path(f"{self.path}-wal").stat().st_size
        return size

    def position_at(self, recorded_ns: int) -> int:
        """The first position recorded at this time or later; if there is none, the one behind the last."""
        query = "SELECT position, recorded_ns FROM events WHERE position >= ? ORDER BY position LIMIT 1"
        with self._reading() as db:
            return first_position_at(
                recorded_ns, self.last_position(), lambda position: db.execute(query, (position,)).fetchone()
            )

    def rejected(self, limit: int, *, after: int = 0) -> list[Rejected]:
        """Up to `limit` rejected events behind a position of their list."""
        query = f"SELECT {REJECTED_COLUMNS}, position FROM rejected WHERE position > ? ORDER BY position LIMIT ?"
        with self._reading() as db:
            return [Rejected(*found) for found in db.execute(query, (after, limit))]

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        with self._reading() as db:
            return [run_of(found) for found in db.execute(f"SELECT {RUN_COLUMNS}, number FROM runs ORDER BY number")]


def _entry(found: tuple[Any, ...]) -> Entry:
    # hot path: once an entry; `_make` and the class take twice the time.
    return new_tuple(Entry, (found[0], new_tuple(Row, found[1:])))


def _of_transaction(id: str | int) -> Condition:
    return Condition("transaction_id = ?", [id])
