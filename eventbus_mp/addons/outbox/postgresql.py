"""The outbox in a PostgreSQL database, as its relay sees it.

A row becomes visible when its transaction commits, and ids are given out before that: so a row may come with a lower
position than what was published already. Each look therefore begins at the first row that waits, and remembers nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any
from zlib import crc32

from eventbus_mp.addons.journal.row import Entry, Row
from eventbus_mp.addons.journal.store import StoreLocked, StoreUnavailable, StoreUnusable
from eventbus_mp.addons.journal.urls import shown_url
from eventbus_mp.addons.outbox.ids import loaded_id
from eventbus_mp.addons.outbox.schema import COLUMNS, CONDITIONS, check_table
from eventbus_mp.addons.outbox.stop import StopFlag
from eventbus_mp.addons.outbox.store import LOOK_BYTES, Item, Refused, TopicCounts, missing_table
from eventbus_mp.addons.postgresql import check_session, connected, explained, psycopg

__all__ = ["PostgresqlOutbox"]

POLL_S = 1.0
APPLICATION = "eventbus-mp outbox"
NAME_BYTES_MAX = 63
LOCK_CLASS = 0x65624F31
"""The first half of the keys of our advisory locks: "ebO1"."""
_SESSION = """
SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES
    ('synchronous_commit', 'off'),
    ('lock_timeout', '5000'),
    ('idle_session_timeout', '0'),
    ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'),
    ('tcp_user_timeout', '30000')
) AS ours (name, wanted) USING (name)
"""
"""What the relay's session needs. What it commits may be lost with the server, and is published once more. Rows that a
user has locked do not keep it from being stopped. The server misses a relay whose machine is gone, and gives its lock
away. pg_settings has those that this server knows."""
_COLUMNS = COLUMNS["postgresql"]
# The length of a value is in front of it: what is long is not read for it.
_SIZE = "octet_length(data)::bigint + coalesce(octet_length(buffers), 0)"
_BEFORE = "sum(nbytes) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - nbytes"
"""How many bytes the rows in front of this one have."""


class PostgresqlOutbox:
    """The `OutboxStore` of `postgresql://...`; see `open_outbox`."""

    def __init__(self, url: str, table: str, *, poll_s: float | None = None) -> None:
        self._dsn = url
        self._table = check_table(table, "postgresql")
        self._poll_s = POLL_S if poll_s is None else poll_s
        self._place = ("", "")
        """The schema of the table, which the search path may have said, and its name there."""
        self._connection: psycopg.Connection[Any] | None = None
        self._is_locked = False
        self._is_checked = False
        """Whether the connection is known to have a session of its own."""
        self._is_woken = False
        self._looked_s = 0.0
        """When `waiting` looked last."""
        self.url = shown_url(url)
        with self._open():
            pass

    # --- for the one relay ---

    def take_lock(self) -> bool:
        """Become the one relay of this outbox: an advisory lock, which the server gives up with the session."""
        with self._open() as db:
            if not self._is_locked:
                if not self._is_checked:
                    check_session(db, self._dsn)
                    self._is_checked = True
                found = db.execute("SELECT pg_try_advisory_lock(%s, %s)", self._lock_key).fetchone()
                self._is_locked = bool(found and found[0])
                if self._is_locked:
                    db.execute(_SESSION)
                    self._listen(db)
            return self._is_locked

    @property
    def _lock_key(self) -> tuple[int, int]:
        """Of the table, by whatever name it was given: there is one lock for each, and for no two of them."""
        return (LOCK_CLASS, crc32(".".join(self._place).encode()) - (1 << 31))

    def _listen(self, db: psycopg.Connection[Any]) -> None:
        """Hear an `Outbox` that was given the table with its schema, and one without."""
        for channel in {self._table, self._place[1], ".".join(self._place)}:
            if len(channel.encode()) <= NAME_BYTES_MAX:
                db.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))

    def waiting(self, limit: int, held: Collection[str]) -> list[Entry]:
        """See `OutboxStore`."""
        others = " AND topic <> ALL(%s)" if held else ""
        columns = f"position, {_COLUMNS}"
        first = (
            f"SELECT {columns}, {_SIZE} AS nbytes FROM {self._table} WHERE done_ns IS NULL{others} "
            "ORDER BY position LIMIT %s"
        )
        query = (
            f"SELECT {columns} FROM (SELECT {columns}, {_BEFORE} AS before FROM ({first}) AS first) AS measured "
            "WHERE before < %s ORDER BY position"
        )
        values = (*([list(held)] if held else []), limit, LOOK_BYTES)
        if not self.take_lock():
            raise StoreLocked(f"the connection to {self.url} was lost, and another relay has the lock now")
        with self._open() as db:
            self._looked_s = monotonic()
            self._is_woken = False  # In front of the look: what is committed after it wakes again.
            return [_entry(found) for found in db.execute(query, values, binary=True)]

    def finish(self, positions: Sequence[int], refused: Sequence[Refused], done_ns: int, *, keep: bool) -> None:
        """See `OutboxStore`."""
        with self._open() as db, db.transaction():
            if positions and keep:
                db.execute(
                    f"UPDATE {self._table} SET done_ns = %s WHERE position = ANY(%s)", (done_ns, list(positions))
                )
            elif positions:
                db.execute(f"DELETE FROM {self._table} WHERE position = ANY(%s)", (list(positions),))
            for position, reason in refused:
                db.execute(
                    f"UPDATE {self._table} SET done_ns = %s, reason = %s WHERE position = %s",
                    (done_ns, reason.replace("\0", "\\0"), position),
                )

    def wait(self, timeout_s: float, stop: StopFlag) -> bool:
        """See `OutboxStore`: sleeps until the server says that something was committed."""
        if self._is_woken:
            return True
        left_s = self._looked_s + self._poll_s - monotonic()
        if left_s > 0:
            with self._open() as db:
                # What comes is read with the next query, that of `waiting`; an end of file is an error there.
                if stop.wait_for(db.fileno(), min(left_s, timeout_s)):
                    return True
        return monotonic() >= self._looked_s + self._poll_s

    def prune(self, below_ns: int, limit: int) -> int:
        """See `OutboxStore`."""
        inner = f"SELECT position FROM {self._table} WHERE done_ns < %s AND reason IS NULL LIMIT %s"
        with self._open() as db:
            return db.execute(f"DELETE FROM {self._table} WHERE position IN ({inner})", (below_ns, limit)).rowcount

    # --- for who looks ---

    def items(self, state: str, *, after: int, limit: int) -> list[Item]:
        """See `OutboxStore`."""
        query = (
            f"SELECT position, {_COLUMNS}, done_ns, reason FROM {self._table} "
            f"WHERE {CONDITIONS[state]} AND position > %s ORDER BY position LIMIT %s"
        )
        with self._open() as db:
            return [_item(found) for found in db.execute(query, (after, limit), binary=True)]

    def find(self, position: int) -> Item | None:
        """See `OutboxStore`."""
        query = f"SELECT position, {_COLUMNS}, done_ns, reason FROM {self._table} WHERE position = %s"
        with self._open() as db:
            found = db.execute(query, (position,), binary=True).fetchone()
        return _item(found) if found is not None else None

    def counts(self) -> dict[str, TopicCounts]:
        """See `OutboxStore`."""
        counted = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in CONDITIONS.values())
        oldest = "min(recorded_ns) FILTER (WHERE done_ns IS NULL)"
        query = f'SELECT topic, {counted}, {oldest} FROM {self._table} GROUP BY topic ORDER BY topic COLLATE "C"'
        with self._open() as db:
            return {topic: TopicCounts(*found) for topic, *found in db.execute(query)}

    def retry(self, positions: Sequence[int] | None) -> int:
        """See `OutboxStore`."""
        change = f"UPDATE {self._table} SET done_ns = NULL, reason = NULL WHERE {CONDITIONS['refused']}"
        done = self._change(change, positions)
        with self._open() as db:
            db.execute("SELECT pg_notify(%s, '')", (self._table,))
        return done

    def discard(self, positions: Sequence[int]) -> int:
        """See `OutboxStore`."""
        return self._change(f"DELETE FROM {self._table} WHERE {CONDITIONS['refused']}", positions)

    def _change(self, change: str, positions: Sequence[int] | None) -> int:
        with self._open() as db:
            if positions is None:
                return db.execute(change).rowcount
            return db.execute(f"{change} AND position = ANY(%s)", (list(positions),)).rowcount

    # --- the connection ---

    @contextmanager
    def _open(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, made anew if the last one was lost; errors are those of a store."""
        try:
            if self._connection is None or self._connection.closed:
                self._connect()
            assert self._connection is not None
            yield self._connection
        except psycopg.errors.UndefinedTable as cause:
            raise missing_table(self.url, self._table) from cause
        except (psycopg.ProgrammingError, psycopg.DataError) as cause:
            raise StoreUnusable(f"{self.url}: {explained(cause)}") from cause
        except psycopg.Error as cause:
            if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction):
                self._let_go()  # As a session began, so it stays; and another host may be the primary now.
            raise StoreUnavailable(f"{self.url}: {explained(cause)}") from cause

    def _connect(self) -> None:
        self._let_go()
        db = connected(self._dsn, APPLICATION)
        try:
            self._place = _place_of(db, self._table)
            if db.info.parameter_status("server_encoding") == "SQL_ASCII":
                # It holds any bytes, and by default would send none of a look's rows if one has a text of others.
                db.execute("SET client_encoding TO 'SQL_ASCII'")
                for loader in (_TextLoader, _BinaryTextLoader):
                    db.adapters.register_loader("text", loader)
            db.add_notify_handler(self._note_notification)
        except BaseException:
            db.close()
            raise
        self._connection = db
        self._is_woken = True

    def _note_notification(self, notification: object) -> None:
        self._is_woken = True

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        self._is_locked = self._is_checked = False
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Give up the lock, and let go of everything. Repeated, it does nothing."""
        self._let_go()

    def __enter__(self) -> PostgresqlOutbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _TextLoader(psycopg.adapt.Loader):
    """Texts that may be of any bytes: one that is not UTF-8 makes one bad row, and not none at all."""

    def load(self, data: psycopg.abc.Buffer) -> str:
        return bytes(data).decode("utf-8", "surrogateescape")


class _BinaryTextLoader(_TextLoader):
    format = psycopg.pq.Format.BINARY


def _place_of(db: psycopg.Connection[Any], table: str) -> tuple[str, str]:
    """The schema of a table and its name; raises UndefinedTable."""
    db.execute(f"SELECT position FROM {table} LIMIT 0")
    found = db.execute(
        "SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE pg_class.oid = to_regclass(%s)",
        (table,),
    ).fetchone()
    if found is None:
        raise psycopg.errors.UndefinedTable(table)  # It was dropped just now.
    return found[0], found[1]


def _entry(found: Sequence[Any]) -> Entry:
    return Entry(found[0], _row(found[1:]))


def _item(found: Sequence[Any]) -> Item:
    return Item(found[0], _row(found[1:-2]), *found[-2:])


def _row(found: Sequence[Any]) -> Row:
    topic, event_id, id_is_integer, transaction_id, transaction_is_integer, *rest = found
    id, transaction = loaded_id(event_id, id_is_integer), loaded_id(transaction_id, transaction_is_integer)
    return Row._make((topic, id, transaction, *rest, None))
