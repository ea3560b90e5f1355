"""A store in a PostgreSQL database.

A batch is copied into its table, which costs half of what any INSERT does. When something of it is there already, as
after a crash, COPY fails, and the rows are inserted one by one, those that are there left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from eventbus_mp.addons.journal.postgresql.connection import ROW_FAULTS, Connection, only_row
from eventbus_mp.addons.journal.postgresql.reading import ReadingStore, is_text
from eventbus_mp.addons.journal.postgresql.schema import COLUMNS, REJECTED_COLUMNS, TYPES
from eventbus_mp.addons.journal.row import Row
from eventbus_mp.addons.journal.run_columns import RUN_COLUMNS, values_of
from eventbus_mp.addons.journal.store import Checkpoint, Rejected, Run, Stored, quarantined_row
from eventbus_mp.addons.postgresql import psycopg

__all__ = ["PostgresqlStore"]

FEW = 4
"""Up to this number of rows are inserted: a COPY has two round trips more."""

_COPY = f"COPY events ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
_INSERT = (
    f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join(f'%b::{type}' for type in TYPES)}) "
    "ON CONFLICT (topic, event_id, id_is_integer) DO NOTHING"
)
_REJECT = f"INSERT INTO rejected ({REJECTED_COLUMNS}) VALUES (%b, %b, %b, %b, %b, %b, %b, %b) ON CONFLICT DO NOTHING"


class PostgresqlStore(ReadingStore):
    """The `Store` of `postgresql://...`; arguments and errors are those of `Database`."""

    def append(self, rows: Sequence[Row], rejected: Sequence[Rejected] = (), *, run: int | None = None) -> Stored:
        """Store rows, in their order, and rejected events, in one transaction: see `Store`."""
        try:
            with self._writing() as db:
                stored = self._insert(db, rows)
                return self._finish(db, Stored(stored, len(rows) - stored), rejected, run)
        except ROW_FAULTS:
            return self._append_apart(rows, rejected, run)

    def _append_apart(self, rows: Sequence[Row], rejected: Sequence[Rejected], run: int | None) -> Stored:
        """Some of the rows cannot be stored: find them, and store the others."""
        refused: list[tuple[int, str]] = []
        with self._writing() as db:
            for index, row in enumerate(rows):
                try:
                    with db.transaction():
                        self._number_of(db, row.topic)
                except ROW_FAULTS as fault:
                    refused.append((index, _reason(fault)))
            without = {index for index, _ in refused}
            left = [(index, row) for index, row in enumerate(rows) if index not in without]
            stored = self._insert_halves(db, left, refused)
            refused.sort()
            quarantined = [quarantined_row(rows[index], reason) for index, reason in refused]
            counts = Stored(stored, len(rows) - stored - len(refused), tuple(refused))
            return self._finish(db, counts, [*rejected, *quarantined], run)

    def _insert_halves(self, db: Connection, rows: Sequence[tuple[int, Row]], refused: list[tuple[int, str]]) -> int:
        """Store what can be stored of these (index, row): how many. The others are added to `refused`."""
        if not rows:
            return 0
        try:
            with db.transaction():
                return self._insert(db, [row for _, row in rows])
        except ROW_FAULTS as fault:
            if len(rows) == 1:
                refused.append((rows[0][0], _reason(fault)))
                return 0
        middle = len(rows) // 2
        return self._insert_halves(db, rows[:middle], refused) + self._insert_halves(db, rows[middle:], refused)

    def _insert(self, db: Connection, rows: Sequence[Row]) -> int:
        """Store rows that are not there yet: how many."""
        values, last_ns = self._values(db, rows)
        stored = self._copy(db, values) if len(rows) > FEW else None
        if stored is None:
            with db.cursor() as cursor:
                cursor.executemany(_INSERT, values)
                stored = cursor.rowcount if values else 0
        self._recorded_ns = last_ns
        return stored

    def _values(self, db: Connection, rows: Sequence[Row]) -> tuple[list[tuple[Any, ...]], int]:
        """The values of `COLUMNS` of each row, and the time of the last one."""
        # hot path: once an event, 1.5 us with the COPY.
        numbers, last_ns, values = self._numbers, self._recorded_ns, []
        for topic, id, transaction_id, *fields, recorded_ns, expires_ns in rows:
            number = numbers.get(topic) or self._number_of(db, topic)
            if recorded_ns > last_ns:  # Or the clock was set back.
                last_ns = recorded_ns
            is_integer = None if transaction_id is None else type(transaction_id) is int
            transaction = None if transaction_id is None else str(transaction_id)
            values.append((number, str(id), type(id) is int, transaction, is_integer, *fields, last_ns, expires_ns))
        return values, last_ns

    def _copy(self, db: Connection, values: Sequence[tuple[Any, ...]]) -> int | None:
        """Store all of them: how many; None: something of it is there already, and nothing was stored."""
        try:
            with db.transaction(), db.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(TYPES)
                for one in values:
                    copy.write_row(one)
        except psycopg.errors.UniqueViolation:
            return None
        return len(values)

    def _number_of(self, db: Connection, name: str) -> int:
        if name not in self._numbers:
            found = db.execute("INSERT INTO topics (name) VALUES (%b) RETURNING number", (name,))
            self._numbers[name] = int(only_row(found)[0])
        return self._numbers[name]

    def _finish(self, db: Connection, counts: Stored, rejected: Sequence[Rejected], run: int | None) -> Stored:
        for one in rejected:
            texts = (_bytes(one.topic), _bytes(str(one.id)), type(one.id) is int, _storable(one.reason))
            try:
                with db.transaction():
                    db.execute(_REJECT, (*texts, one.data, one.buffers, one.format, one.recorded_ns))
            except ROW_FAULTS:
                db.execute(_REJECT, (*texts, None, None, one.format, one.recorded_ns))
        if run is not None:
            db.execute(
                "UPDATE runs SET stored = stored + %s, duplicates = duplicates + %s, rejected = rejected + %s "
                "WHERE number = %s",
                (counts.stored, counts.duplicates, len(rejected), run),
            )
        return counts

    def begin_run(self, run: Run) -> int:
        """Note the beginning of a run; its number."""
        values = values_of(run)
        marks = ", ".join(["%s"] * len(values))
        with self._writing() as db:
            done = db.execute(f"INSERT INTO runs ({RUN_COLUMNS}) VALUES ({marks}) RETURNING number", values)
            return int(only_row(done)[0])

    def note_run(
        self, number: int, *, noted_ns: int, notified: Mapping[str, int], waiting: int, ended: bool = False
    ) -> None:
        """Note the counters of a run, and whether it ends here."""
        values = (noted_ns, json.dumps(dict(notified)), waiting, noted_ns if ended else None, number)
        with self._writing() as db:
            db.execute(
                "UPDATE runs SET noted_ns = %s, notified_last = %s, waiting = %s, ended_ns = %s WHERE number = %s",
                values,
            )

    def drop_rejected(self, keys: Sequence[tuple[str, str | int]]) -> int:
        """Forget the rejected events of these topics and ids: how many there were."""
        where = "sha256(topic) = sha256(%b) AND sha256(event_id) = sha256(%b) AND id_is_integer = %b"
        dropped = 0
        with self._writing() as db:
            for topic, id in keys:
                values = (_bytes(topic), _bytes(str(id)), type(id) is int)
                dropped += db.execute(f"DELETE FROM rejected WHERE {where}", values).rowcount
        return dropped

    def drop_rejected_before(self, recorded_ns: int, limit: int) -> int:
        """Forget up to `limit` rejected events that were recorded before: how many."""
        inner = "SELECT position FROM rejected WHERE recorded_ns < %s ORDER BY position LIMIT %s"
        with self._writing() as db:
            return _delete(db, "rejected", inner, (recorded_ns, limit))

    def delete(self, topic: str, id: str | int) -> bool:
        """Delete one entry; False: there is none."""
        if not is_text(topic) or not is_text(str(id)):
            return False
        where = "topic = (SELECT number FROM topics WHERE name = %s) AND event_id = %s AND id_is_integer = %s"
        with self._writing() as db:
            return db.execute(f"DELETE FROM events WHERE {where}", (topic, str(id), type(id) is int)).rowcount > 0

    def delete_below(self, position: int, topics: Sequence[str], limit: int) -> int:
        """Delete up to `limit` entries of these topics in front of a position: how many."""
        inner = "SELECT position FROM events WHERE topic = %s AND position < %s ORDER BY position LIMIT %s"
        deleted = 0
        with self._writing() as db:
            for number in filter(None, map(self._numbers.get, topics)):
                if deleted < limit:
                    deleted += _delete(db, "events", inner, (number, position, limit - deleted))
        return deleted

    def delete_expired(self, now_ns: int, below: int | None, limit: int) -> int:
        """Delete up to `limit` entries whose `expires_ns` is not after `now_ns`: how many."""
        inner = "SELECT position FROM events WHERE expires_ns <= %s AND +position < %s ORDER BY expires_ns LIMIT %s"
        with self._writing() as db:
            return _delete(db, "events", inner, (now_ns, below if below is not None else 1 << 62, limit))

    def reclaim(self) -> None:
        """Nothing: the server's autovacuum makes room for new entries."""

    # --- checkpoints ---

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, in the place of the one of its name."""
        values = (
            checkpoint.name,
            checkpoint.target,
            checkpoint.next_position,
            checkpoint.until_position,
            checkpoint.updated_ns,
            checkpoint.ended,
        )
        names = "target, next_position, until_position, updated_ns, ended"
        with self._reading() as db:
            db.execute(
                f"INSERT INTO checkpoints (name, {names}) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE "
                f"SET ({names}) = ROW({', '.join(f'excluded.{name}' for name in names.split(', '))})",
                values,
            )

    def drop_checkpoint(self, name: str) -> bool:
        """Forget a checkpoint; False: there is none."""
        with self._reading() as db:
            return db.execute("DELETE FROM checkpoints WHERE name = %s", (name,)).rowcount > 0

    def __enter__(self) -> PostgresqlStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _delete(db: Connection, table: str, inner: str, parameters: tuple[Any, ...]) -> int:
    # An array and not IN: the plan is then always to look up each position.
    return db.execute(f"DELETE FROM {table} WHERE position = ANY (ARRAY({inner}))", parameters).rowcount


def _reason(fault: Exception) -> str:
    said = fault.diag.message_primary if isinstance(fault, psycopg.Error) else None
    return f"{type(fault).__name__}: {said if said is not None else fault}"


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
