"""The questions that a PostgreSQL store answers."""

from __future__ import annotations

from typing import Any

from eventbus_mp.addons.journal.postgresql.connection import Database, only_row
from eventbus_mp.addons.journal.postgresql.schema import COLUMNS, REJECTED_COLUMNS
from eventbus_mp.addons.journal.row import Entry, Row
from eventbus_mp.addons.journal.run_columns import RUN_COLUMNS, run_of
from eventbus_mp.addons.journal.selecting import Condition, condition_of, first_position_at
from eventbus_mp.addons.journal.store import Checkpoint, Heading, Rejected, Run, Selection

__all__ = ["ReadingStore", "is_text"]

_FROM = "FROM events JOIN topics ON number = topic"
_ENTRIES = f"SELECT position, {COLUMNS.replace('topic', 'name', 1)} {_FROM}"
# The length of a value is in front of it: what is long is not read for it.
_HEADINGS = (
    "SELECT position, name, event_id, id_is_integer, transaction_id, transaction_is_integer, source, recorded_ns, "
    f"octet_length(data)::bigint + coalesce(octet_length(buffers), 0) {_FROM}"
)
_CHECKPOINTS = "SELECT name, target, next_position, until_position, updated_ns, ended FROM checkpoints ORDER BY name"
_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'
"""


class ReadingStore(Database):
    """The part of `PostgresqlStore` that reads."""

    def page(self, selection: Selection, limit: int, *, newest_first: bool = False) -> list[Entry]:
        """Up to `limit` of the selected entries, by position."""
        return [_entry(found) for found in self._page(_ENTRIES, selection, limit, newest_first)]

    def headings(self, selection: Selection, limit: int, *, newest_first: bool = False) -> list[Heading]:
        """As `page`, at a cost that does not grow with the size of the entries."""
        return [_heading(found) for found in self._page(_HEADINGS, selection, limit, newest_first)]

    def count(self, selection: Selection) -> int:
        """How many entries are selected."""
        return sum(self.count_per_topic(selection).values())

    def count_per_topic(self, selection: Selection) -> dict[str, int]:
        """How many of each topic, by name; only topics that have any."""
        counts = dict(self._selected("SELECT topic, count(*) FROM events WHERE {} GROUP BY topic", selection))
        return {name: counts[number] for name, number in sorted(self._topics().items()) if number in counts}

    def _page(self, columns: str, selection: Selection, limit: int, newest_first: bool) -> list[Any]:
        order = "DESC" if newest_first else "ASC"
        return self._selected(f"{columns} WHERE {{}} ORDER BY position {order} LIMIT {int(limit)}", selection)

    def _selected(self, query: str, selection: Selection) -> list[Any]:
        transaction = selection.transaction_id
        if type(transaction) is str and not is_text(transaction):
            return []
        with self._reading() as db:
            condition = condition_of(selection, self._topics(), self.position_at, "%s", _of_transaction)
            if condition is None:
                return []
            return db.execute(query.format(condition.text), condition.parameters, binary=True).fetchall()

    def _topics(self) -> dict[str, int]:
        with self._reading() as db:
            return dict(db.execute("SELECT name, number FROM topics").fetchall())

    def find(self, topic: str, id: str | int) -> Entry | None:
        """The entry of this topic and id."""
        if not is_text(topic) or not is_text(str(id)):
            return None
        where = "name = %s AND event_id = %s AND id_is_integer = %s"
        with self._reading() as db:
            values = (topic, str(id), type(id) is int)
            found = db.execute(f"{_ENTRIES} WHERE {where}", values, binary=True).fetchone()
            return _entry(found) if found is not None else None

    def topics(self) -> list[str]:
        """The names of all topics that have or had entries, sorted."""
        return sorted(self._topics())

    def last_position(self) -> int:
        """The highest position that is there; 0: there is no entry."""
        with self._reading() as db:
            return int(only_row(db.execute("SELECT coalesce(max(position), 0) FROM events"))[0])

    def size_bytes(self) -> int:
        """How much room the tables take, with their indexes; the server's log, which all databases share, not."""
        with self._reading() as db:
            return int(only_row(db.execute(_SIZE, (self._address.quoted_schema,)))[0])

    def position_at(self, recorded_ns: int) -> int:
        """The first position recorded at this time or later; if there is none, the one behind the last."""
        query = "SELECT position, recorded_ns FROM events WHERE position >= %s ORDER BY position LIMIT 1"
        with self._reading() as db:
            return first_position_at(
                recorded_ns, self.last_position(), lambda position: db.execute(query, (position,)).fetchone()
            )

    def rejected(self, limit: int, *, after: int = 0) -> list[Rejected]:
        """Up to `limit` rejected events behind a position of their list."""
        query = f"SELECT {REJECTED_COLUMNS}, position FROM rejected WHERE position > %s ORDER BY position LIMIT %s"
        with self._reading() as db:
            return [_rejected(found) for found in db.execute(query, (after, limit), binary=True)]

    def runs(self) -> list[Run]:
        """All runs, the oldest first."""
        with self._reading() as db:
            return [run_of(found) for found in db.execute(f"SELECT {RUN_COLUMNS}, number FROM runs ORDER BY number")]

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, by name."""
        with self._reading() as db:
            return [Checkpoint(*found) for found in db.execute(_CHECKPOINTS)]


def is_text(value: str) -> bool:
    """Whether the database can have this text: it has no NUL and no lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _entry(found: tuple[Any, ...]) -> Entry:
    position, topic, id, id_is_integer, transaction, transaction_is_integer, *rest = found
    return Entry(position, Row(topic, _id(id, id_is_integer), _id(transaction, transaction_is_integer), *rest))


def _heading(found: tuple[Any, ...]) -> Heading:
    position, topic, id, id_is_integer, transaction, transaction_is_integer, *rest = found
    return Heading(position, topic, _id(id, id_is_integer), _id(transaction, transaction_is_integer), *rest)


def _rejected(found: tuple[Any, ...]) -> Rejected:
    topic, id, id_is_integer, *rest = found
    return Rejected(*(_text(topic), _id(_text(id), id_is_integer)), *rest)


def _id(text: Any, is_integer: bool | None) -> Any:
    return int(text) if is_integer else text


def _text(value: bytes) -> str:
    return value.decode(errors="surrogatepass")


def _of_transaction(id: str | int) -> Condition:
    return Condition("transaction_id = %s AND transaction_is_integer = %s", [str(id), type(id) is int])
