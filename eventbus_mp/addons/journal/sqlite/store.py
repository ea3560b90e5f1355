"""A store in a SQLite file.

The file has a write-ahead log, one writer, and readers that cannot write: so none of them can meet the fault of SQLite
3.7 to 3.51.2 by which two connections that write or checkpoint at one moment may damage a file. Checkpoints of replays,
which other processes write, are in a file of their own beside it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from types import TracebackType
from typing import Any

from eventbus_mp.addons.journal.row import Row
from eventbus_mp.addons.journal.run_columns import RUN_COLUMNS, values_of
from eventbus_mp.addons.journal.sqlite.checkpoints import CheckpointFile
from eventbus_mp.addons.journal.sqlite.connection import ROW_FAULTS, asking, told
from eventbus_mp.addons.journal.sqlite.reading import ReadingStore
from eventbus_mp.addons.journal.sqlite.schema import COLUMNS, REJECTED_COLUMNS
from eventbus_mp.addons.journal.store import Checkpoint, Rejected, Run, Stored, quarantined_row

__all__ = ["SqliteStore"]

CHUNKS = (256, 64, 16, 4, 1)
"""How many rows one statement stores. With 256, a row costs two thirds of what it costs in `executemany`, and another
thread of the process gets the interpreter between statements and not between rows."""
RECLAIMED_PAGES = 2_000

_NAMES = COLUMNS.split(", ")
_TOPIC, _RECORDED_NS = Row._fields.index("topic"), Row._fields.index("recorded_ns")
_REJECT = f"INSERT INTO rejected ({REJECTED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


class SqliteStore(ReadingStore):
    """The `Store` of `sqlite:///PATH`; arguments and errors are those of `Database`."""

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = False, synchronous: str = "FULL") -> None:
        super().__init__(path, writes=writes, synchronous=synchronous)
        self._checkpoints = CheckpointFile(Path(f"{self.path}.replays"))

    def append(self, rows: Sequence[Row], rejected: Sequence[Rejected] = (), *, run: int | None = None) -> Stored:
        """Store rows, in their order, and rejected events, in one transaction: see `Store`."""
        try:
            with self._writing() as db:
                stored = self._insert(db, rows)
                return self._finish(db, Stored(stored, len(rows) - stored), rejected, run)
        except ROW_FAULTS:
            return self._append_singly(rows, rejected, run)

    def _append_singly(self, rows: Sequence[Row], rejected: Sequence[Rejected], run: int | None) -> Stored:
        """One of the rows cannot be stored: find it, and store the others."""
        refused: list[tuple[int, str]] = []
        quarantined = list(rejected)
        stored = 0
        with self._writing() as db:
            for row in rows:
                self._number_of(db, row.topic)  # Outside of what may be rolled back.
            for index, row in enumerate(rows):
                db.execute("SAVEPOINT row")
                try:
                    stored += self._insert(db, (row,))
                except ROW_FAULTS as fault:
                    db.execute("ROLLBACK TO row")
                    refused.append((index, f"{type(fault).__name__}: {fault}"))
                    quarantined.append(quarantined_row(row, refused[-1][1]))
                db.execute("RELEASE row")
            counts = Stored(stored, len(rows) - stored - len(refused), tuple(refused))
            return self._finish(db, counts, quarantined, run)

    def _insert(self, db: sqlite3.Connection, rows: Sequence[Row]) -> int:
        stored = begin = 0
        recorded_ns = self._recorded_ns
        for size in CHUNKS:
            while len(rows) - begin >= size:
                columns: list[Sequence[Any]] = list(zip(*rows[begin : begin + size], strict=True))
                columns[_TOPIC] = [self._numbers.get(name) or self._number_of(db, name) for name in columns[_TOPIC]]
                times = list(columns[_RECORDED_NS])
                if times[0] < recorded_ns or times != sorted(times):  # The clock was set back.
                    times = columns[_RECORDED_NS] = list(accumulate(times, max, initial=recorded_ns))[1:]
                recorded_ns = times[-1]
                stored += _insert_chunk(db, columns, size)
                begin += size
        self._recorded_ns = recorded_ns
        return stored

    def _number_of(self, db: sqlite3.Connection, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = int(db.execute("INSERT INTO topics (name) VALUES (?)", (name,)).lastrowid or 0)
        return self._numbers[name]

    def _finish(self, db: sqlite3.Connection, counts: Stored, rejected: Sequence[Rejected], run: int | None) -> Stored:
        for one in rejected:
            values = (one.topic, one.id, one.reason, one.data, one.buffers, one.format, one.recorded_ns)
            try:
                db.execute(_REJECT, values)
            except ROW_FAULTS:
                db.execute(_REJECT, (*values[:3], None, None, *values[5:]))
        if run is not None:
            db.execute(
                "UPDATE runs SET stored = stored + ?, duplicates = duplicates + ?, rejected = rejected + ? "
                "WHERE number = ?",
                (counts.stored, counts.duplicates, len(rejected), run),
            )
        return counts

    def begin_run(self, run: Run) -> int:
        """Note the beginning of a run; its number."""
        values = values_of(run)
        with self._writing() as db:
            done = db.execute(f"INSERT INTO runs ({RUN_COLUMNS}) VALUES ({','.join('?' * len(values))})", values)
            return int(done.lastrowid or 0)

    def note_run(
        self, number: int, *, noted_ns: int, notified: Mapping[str, int], waiting: int, ended: bool = False
    ) -> None:
        """Note the counters of a run, and whether it ends here."""
        values = (noted_ns, json.dumps(dict(notified)), waiting, noted_ns if ended else None, number)
        with self._writing() as db:
            db.execute(
                "UPDATE runs SET noted_ns = ?, notified_last = ?, waiting = ?, ended_ns = ? WHERE number = ?", values
            )

    def drop_rejected(self, keys: Sequence[tuple[str, str | int]]) -> int:
        """Forget the rejected events of these topics and ids: how many there were."""
        with asking(self.url), self._writing() as db:
            return db.executemany("DELETE FROM rejected WHERE topic = ? AND event_id = ?", keys).rowcount

    def drop_rejected_before(self, recorded_ns: int, limit: int) -> int:
        """Forget up to `limit` rejected events that were recorded before: how many."""
        inner = "SELECT position FROM rejected WHERE recorded_ns < ? LIMIT ?"
        with self._writing() as db:
            return db.execute(f"DELETE FROM rejected WHERE position IN ({inner})", (recorded_ns, limit)).rowcount

    def delete(self, topic: str, id: str | int) -> bool:
        """Delete one entry; False: there is none."""
        with asking(self.url), self._writing() as db:
            where = "topic = (SELECT number FROM topics WHERE name = ?) AND event_id = ?"
            return db.execute(f"DELETE FROM events WHERE {where}", (topic, id)).rowcount > 0

    def delete_below(self, position: int, topics: Sequence[str], limit: int) -> int:
        """Delete up to `limit` entries of these topics in front of a position: how many."""
        inner = "SELECT position FROM events WHERE topic = ? AND position < ? ORDER BY position LIMIT ?"
        deleted = 0
        with self._writing() as db:
            for number in filter(None, map(self._numbers.get, topics)):
                if deleted < limit:
                    deleted += _delete(db, inner, (number, position, limit - deleted))
        return deleted

    def delete_expired(self, now_ns: int, below: int | None, limit: int) -> int:
        """Delete up to `limit` entries whose `expires_ns` is not after `now_ns`: how many."""
        inner = "SELECT position FROM events WHERE expires_ns <= ? AND +position < ? LIMIT ?"
        with self._writing() as db:
            return _delete(db, inner, (now_ns, below if below is not None else 1 << 62, limit))

    def reclaim(self) -> None:
        """Give some of the pages that were deleted back to the file system."""
        with told(self.path):
            self._db.execute(f"PRAGMA incremental_vacuum({RECLAIMED_PAGES})").fetchall()

    # --- checkpoints ---

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, by name."""
        return self._checkpoints.all()

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, in the place of the one of its name."""
        self._checkpoints.save(checkpoint)

    def drop_checkpoint(self, name: str) -> bool:
        """Forget a checkpoint; False: there is none."""
        return self._checkpoints.drop(name)

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _insert_chunk(db: sqlite3.Connection, columns: Sequence[Sequence[Any]], count: int) -> int:
    """Insert rows, given as columns: how many were not there.

    What no row has a value for is left out: each NULL that is named costs as much as a value, and of most events that
    is the larger half of their row.
    """
    used = [index for index, column in enumerate(columns) if column.count(None) < count]
    values = list(chain.from_iterable(zip(*[columns[index] for index in used], strict=True)))
    return db.execute(_insert_statement(tuple(used), count), values).rowcount


@lru_cache(maxsize=256)
def _insert_statement(used: tuple[int, ...], count: int) -> str:
    places = f"({','.join('?' * len(used))})"
    names = ", ".join(_NAMES[index] for index in used)
    return f"INSERT INTO events ({names}) VALUES {','.join([places] * count)} ON CONFLICT DO NOTHING"


def _delete(db: sqlite3.Connection, inner: str, parameters: tuple[Any, ...]) -> int:
    return db.execute(f"DELETE FROM events WHERE position IN ({inner})", parameters).rowcount
