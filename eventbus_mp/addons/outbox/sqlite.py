"""The outbox in a SQLite file, as its relay sees it. The file is the user's: its journal mode and all else stay."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from eventbus_mp.addons.journal.row import Entry, Row
from eventbus_mp.addons.journal.sqlite.connection import connected, told
from eventbus_mp.addons.journal.sqlite.files import WriterLock, identity_of
from eventbus_mp.addons.journal.store import StoreLocked, StoreUnavailable
from eventbus_mp.addons.outbox.schema import COLUMNS, CONDITIONS, check_table
from eventbus_mp.addons.outbox.stop import StopFlag
from eventbus_mp.addons.outbox.store import LOOK_BYTES, Item, Refused, TopicCounts, missing_table

__all__ = ["SqliteOutbox"]

POLL_S = 0.02
"""A look costs 70 us: a third of a percent of a processor."""
_COLUMNS = COLUMNS["sqlite"]


class SqliteOutbox:
    """The `OutboxStore` of `sqlite:///PATH`; see `open_outbox`."""

    def __init__(self, path: str, table: str, *, poll_s: float | None = None) -> None:
        self.path = Path(path).absolute()
        self.url = f"sqlite:///{self.path}"
        self._table = check_table(table, "sqlite")
        self._poll_s = POLL_S if poll_s is None else poll_s
        self._lock = WriterLock(Path(f"{self.path.resolve()}.{table}.lock"))  # By whatever link it was opened.
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        """Of the file that is open."""
        self._seen = -1
        """SQLite's number of the last change when `waiting` looked. It changes with each commit of anybody else."""
        with self._open():
            pass

    # --- for the one relay ---

    def take_lock(self) -> bool:
        """Become the one relay of this outbox: by a file beside it, whose lock ends with the process."""
        return self._lock.take()

    def waiting(self, limit: int, held: Collection[str]) -> list[Entry]:
        """See `OutboxStore`."""
        others = f" AND topic NOT IN ({','.join('?' * len(held))})" if held else ""
        query = (
            f"SELECT position, {_COLUMNS} FROM {self._table} WHERE done_ns IS NULL{others} ORDER BY position LIMIT ?"
        )
        if not self._lock.take():
            raise StoreLocked(f"the lock of {self.url} was removed, and another relay has it now")
        with self._open() as db:
            self._seen = _last_change(db)  # In front of the look: what is committed after it makes another one.
            entries: list[Entry] = []
            nbytes = 0
            for found in db.execute(query, (*held, limit)):
                entries.append(_entry(found))
                nbytes += _size_of(entries[-1].row)
                if nbytes >= LOOK_BYTES:
                    break
            return entries

    def finish(self, positions: Sequence[int], refused: Sequence[Refused], done_ns: int, *, keep: bool) -> None:
        """See `OutboxStore`. It need not be on the disk: a loss of power has some published once more."""
        done = f"UPDATE {self._table} SET done_ns = {int(done_ns)}" if keep else f"DELETE FROM {self._table}"
        with self._transaction() as db:
            for first, last in _runs(positions):
                db.execute(f"{done} WHERE position BETWEEN ? AND ?", (first, last))
            for position, reason in refused:
                db.execute(
                    f"UPDATE {self._table} SET done_ns = ?, reason = ? WHERE position = ?", (done_ns, reason, position)
                )

    def wait(self, timeout_s: float, stop: StopFlag) -> bool:
        """See `OutboxStore`: asks SQLite every `poll_s` whether anybody has committed anything, some microseconds."""
        end_s = monotonic() + timeout_s
        while (left_s := end_s - monotonic()) > 0 and not stop.wait(min(self._poll_s, left_s)):
            with self._open() as db:
                if _last_change(db) != self._seen:
                    return True
        return False

    def prune(self, below_ns: int, limit: int) -> int:
        """See `OutboxStore`."""
        inner = f"SELECT position FROM {self._table} WHERE done_ns < ? AND reason IS NULL LIMIT ?"
        with self._transaction() as db:
            return db.execute(f"DELETE FROM {self._table} WHERE position IN ({inner})", (below_ns, limit)).rowcount

    # --- for who looks ---

    def items(self, state: str, *, after: int, limit: int) -> list[Item]:
        """See `OutboxStore`."""
        query = (
            f"SELECT position, {_COLUMNS}, done_ns, reason FROM {self._table} "
            f"WHERE {CONDITIONS[state]} AND position > ? ORDER BY position LIMIT ?"
        )
        with self._open() as db:
            return [_item(found) for found in db.execute(query, (after, limit))]

    def find(self, position: int) -> Item | None:
        """See `OutboxStore`."""
        query = f"SELECT position, {_COLUMNS}, done_ns, reason FROM {self._table} WHERE position = ?"
        with self._open() as db:
            found = db.execute(query, (position,)).fetchone()
        return _item(found) if found is not None else None

    def counts(self) -> dict[str, TopicCounts]:
        """See `OutboxStore`."""
        counted = ", ".join(f"count(CASE WHEN {condition} THEN 1 END)" for condition in CONDITIONS.values())
        oldest = "min(CASE WHEN done_ns IS NULL THEN recorded_ns END)"
        query = f"SELECT topic, {counted}, {oldest} FROM {self._table} GROUP BY topic ORDER BY topic"
        with self._open() as db:
            return {topic: TopicCounts(*found) for topic, *found in db.execute(query)}

    def retry(self, positions: Sequence[int] | None) -> int:
        """See `OutboxStore`."""
        change = f"UPDATE {self._table} SET done_ns = NULL, reason = NULL WHERE {CONDITIONS['refused']}"
        return self._change(change, positions)

    def discard(self, positions: Sequence[int]) -> int:
        """See `OutboxStore`."""
        return self._change(f"DELETE FROM {self._table} WHERE {CONDITIONS['refused']}", positions)

    def _change(self, change: str, positions: Sequence[int] | None) -> int:
        with self._transaction() as db:
            if positions is None:
                return db.execute(change).rowcount
            return sum(db.execute(f"{change} AND position = ?", (position,)).rowcount for position in positions)

    # --- the connection ---

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection to the file that the path names, made anew if that is another one or the last one failed."""
        identity = identity_of(self.path)
        if identity is None:
            raise StoreUnavailable(f"there is no database {self.path}")
        with told(self.path):
            if self._connection is None or identity != self._identity:
                self._connect(identity)
            assert self._connection is not None
            try:
                yield self._connection
            except sqlite3.DatabaseError as error:
                if "no such table" in str(error):
                    raise missing_table(self.url, self._table) from error
                raise

    def _connect(self, identity: tuple[int, int]) -> None:
        self._let_go()
        db = connected(self.path, "rw")
        # A text that is not UTF-8, inserted by hand, makes one bad row; by default it would stop every look.
        db.text_factory = _text_of
        try:
            if db.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                # What a relay commits may be lost with the power, and is published again; without a log beside the
                # file, that could damage it.
                db.execute("PRAGMA synchronous = NORMAL")
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self._table,)).fetchone() is None:
                raise missing_table(self.url, self._table)
        except BaseException:
            db.close()
            raise
        self._connection, self._identity, self._seen = db, identity, -1

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite itself rolls back when the disk is full.
                    db.execute("ROLLBACK")
                raise

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Give up the lock, and let go of everything. Repeated, it does nothing."""
        self._let_go()
        self._lock.release()

    def __enter__(self) -> SqliteOutbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _last_change(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def _size_of(row: Row) -> int:
    # By hand, anything may be written there.
    return sum(len(value) for value in (row.data, row.buffers) if isinstance(value, (bytes, str)))


def _entry(found: tuple[Any, ...]) -> Entry:
    return Entry(found[0], Row._make((*found[1:], None)))


def _item(found: tuple[Any, ...]) -> Item:
    return Item(found[0], Row._make((*found[1:-2], None)), *found[-2:])


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of neighbours."""
    ordered = sorted(positions)
    begin = 0
    for at, position in enumerate(ordered):
        if at + 1 == len(ordered) or ordered[at + 1] != position + 1:
            yield ordered[begin], position
            begin = at + 1
