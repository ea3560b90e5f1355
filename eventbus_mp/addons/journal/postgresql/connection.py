"""The connection of a PostgreSQL store: who writes, and what each call goes through.

The lock of the one writer is an advisory lock of the very session that writes. So who has lost it, with the connection,
cannot write any more: the server gives it to another session only when the transaction of this one has ended.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eventbus_mp import UsageError
from eventbus_mp.addons.journal.postgresql.address import address_of
from eventbus_mp.addons.journal.postgresql.schema import APPLICATION, TABLES, VERSION
from eventbus_mp.addons.journal.store import StoreError, StoreLocked, StoreUnavailable, StoreUnusable
from eventbus_mp.addons.postgresql import check_session, connected, explained, psycopg

__all__ = ["ROW_FAULTS", "Connection", "Database", "only_row"]

ROW_FAULTS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,  # An id that is too long for an index.
    OverflowError,
    TypeError,
    UnicodeEncodeError,
    struct.error,
)
"""What psycopg and the server raise for a value that cannot be bound or stored."""
DAMAGES = (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted)

Connection = psycopg.Connection[tuple[Any, ...]]

_SESSION = """
SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES
    ('idle_session_timeout', '0'),
    ('lock_timeout', '5000'),
    ('synchronous_commit', 'on'),
    ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'),
    ('tcp_user_timeout', '30000')
) AS ours (name, wanted) USING (name)
WHERE name <> 'synchronous_commit' OR setting = 'off'
"""
"""What the writer's session needs. COMMIT returns when all is on the disk, whatever the database's default is. A table
that somebody has locked does not keep the writer from saying so, or from being stopped. The server misses a writer
whose machine is gone, and gives its lock away. pg_settings has those that this server knows."""


class Database:
    """Args:
        url: `postgresql://...`, as libpq reads it; among its parameters may be `schema=NAME`.
        writes: Whether to write: `take_lock` then makes the tables if they are missing. If not, they have to exist.

    Raises:
        UsageError: It is not such a URL.
        StoreUnavailable: There is no such journal, or the server cannot be reached now.
        StoreUnusable: It is not a journal, or of a newer version.
    """

    def __init__(self, url: str, *, writes: bool = False) -> None:
        self._address = address_of(url)
        self.url = self._address.shown
        self._writes = writes
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._is_open = not writes
        self._is_writer = False
        """Whether it has taken the lock, and has not heard that another one has it now."""
        self._has_lock = False
        """Whether the session of this connection has it."""
        self._is_checked = False
        """Whether the tables are known to be there, and what the two below say of them is true."""
        self._numbers: dict[str, int] = {}
        """Topic -> its number."""
        self._recorded_ns = 0
        """That of the last row."""
        if not writes:
            self._open_for_reading()

    # --- opening ---

    def _open_for_reading(self) -> None:
        try:
            with self._reading():
                pass  # It connects, and looks whether the tables are there.
        except BaseException:
            self._let_go()
            raise

    def take_lock(self) -> bool:
        """Become the one writer, and make or migrate what is missing; False: another process is. Does not wait."""
        if not self._writes:
            raise UsageError(f"{self.url} was opened for reading")
        self._check_pid()
        with self._told():
            self._is_open = True
            self._is_writer = self._try_lock()
            if self._is_writer and not self._is_checked:
                self._prepare()
        return self._is_writer

    def _try_lock(self) -> bool:
        """Whether this session has the lock, after an attempt to take it."""
        db = self._connected()
        if not self._has_lock:
            (self._has_lock,) = only_row(db.execute("SELECT pg_try_advisory_lock(%s)", (self._lock_key,)))
        return self._has_lock

    @property
    def _lock_key(self) -> int:
        """The number of the lock. A database has its own, so the schema is all that tells journals apart."""
        digest = hashlib.sha256(f"{APPLICATION} {self._address.schema}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def _prepare(self) -> None:
        """Make the tables if they are missing, check that they are ours, and read where the last writer was."""
        db = self._connected()
        with db.transaction():
            if not self._has_tables(db):
                self._make(db)
            self._check_version(db)
            self._numbers = dict(db.execute("SELECT name, number FROM topics").fetchall())
            last = db.execute("SELECT recorded_ns FROM events ORDER BY position DESC LIMIT 1").fetchone()
        self._recorded_ns = last[0] if last is not None else 0
        self._is_checked = True

    def _make(self, db: Connection) -> None:
        (is_there,) = only_row(db.execute("SELECT to_regnamespace(%s) IS NOT NULL", (self._address.quoted_schema,)))
        if not is_there:
            # Not IF NOT EXISTS, which asks for the permission to make one even if it is there.
            db.execute(f"CREATE SCHEMA {self._address.quoted_schema}")
        (others,) = only_row(
            db.execute(
                "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace(%s)", (self._address.quoted_schema,)
            )
        )
        if others:
            raise StoreUnusable(
                f"{self.url}: the schema {self._address.schema!r} has tables that are not a journal's; give another "
                "name with ?schema=NAME"
            )
        db.execute(TABLES)
        db.execute("INSERT INTO about VALUES (%s, %s)", (APPLICATION, VERSION))

    def _has_tables(self, db: Connection) -> bool:
        name = f"{self._address.quoted_schema}.about"
        return bool(only_row(db.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)))[0])

    def _check_version(self, db: Connection) -> None:
        found = db.execute("SELECT application, version FROM about").fetchone()
        if found is None or found[0] != APPLICATION:
            raise StoreUnusable(f"{self.url}: the schema {self._address.schema!r} is not that of a journal")
        if found[1] > VERSION:
            raise StoreUnusable(
                f"{self.url} is of version {found[1]}; this eventbus_mp knows {VERSION}: use a newer one"
            )

    def _connected(self) -> Connection:
        """The connection; a new one, if there is none."""
        self._check_pid()
        if self._connection is None:
            self._is_checked = self._has_lock = False
            db = connected(self._address.database, APPLICATION)
            try:
                check_session(db, self._address.database)
                db.execute("SELECT set_config('search_path', %s, false)", (self._address.quoted_schema,))
                if self._writes:
                    db.execute(_SESSION)
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            raise UsageError(f"{self.url} was opened in process {self._pid}, before a fork; open it again in the child")

    # --- what every call goes through ---

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction of the writer. When it ends well, it is on the server's disk."""
        self._check_pid()
        if not self._is_writer:
            raise UsageError(f"{self.url}: only who holds its lock may write; see Store.take_lock")
        with self._told():
            if not self._try_lock():
                self._is_writer = False
                raise StoreLocked(
                    f"{self.url}: the connection was lost, and another one has the lock: that of another writer, or "
                    "the lost one, which the server has not missed yet"
                )
            if not self._is_checked:
                self._prepare()
            db, known = self._connected(), len(self._numbers)
            try:
                with db.transaction():
                    yield db
            except BaseException:
                for name in list(self._numbers)[known:]:
                    del self._numbers[name]
                raise

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._told():
            if not self._is_open or (self._writes and not self._is_writer):
                raise UsageError(f"{self.url} is closed, or its lock is not held")
            db = self._connected()
            if not self._is_checked and not self._writes:
                if not self._has_tables(db):
                    raise StoreUnavailable(f"{self.url}: there is no journal in the schema {self._address.schema!r}")
                self._check_version(db)
                self._is_checked = True
            yield db

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of PostgreSQL into those of a store; but those of a value that it cannot store stay."""
        try:
            yield
        except ROW_FAULTS:
            raise
        except psycopg.Error as cause:
            self._is_checked = False  # Somebody may have dropped the tables.
            # As a session began, so it stays; and another host may be the primary now.
            is_over = isinstance(cause, psycopg.errors.ReadOnlySqlTransaction)
            if self._connection is not None and (self._connection.closed or is_over):
                self._let_go()
            raise self._error_of(cause) from cause
        except BaseException:
            if self._connection is not None and self._connection.closed:
                self._let_go()
            raise

    def _error_of(self, cause: psycopg.Error) -> StoreError:
        said = f"{self.url}: {explained(cause)}"
        if isinstance(cause, psycopg.errors.UndefinedColumn):
            return StoreUnusable(f"{said}; the schema {self._address.schema!r} is not that of a journal")
        if isinstance(cause, psycopg.errors.UndefinedTable):
            said += f"; the schema {self._address.schema!r} has only some of a journal's tables"
        return StoreUnusable(said) if isinstance(cause, DAMAGES) else StoreUnavailable(said)

    # --- the end ---

    def close(self) -> None:
        """Give up the lock, and let go of everything. Repeated, it does nothing."""
        self._is_open = self._is_writer = False
        if self._connection is not None and self._pid == os.getpid():
            try:
                # The server would notice the end of the session a little later.
                self._connection.execute("SELECT pg_advisory_unlock_all()")
            except psycopg.Error:
                pass  # Then the session has ended, and its lock with it.
            self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def only_row(cursor: Any) -> tuple[Any, ...]:
    """The only row."""
    found = cursor.fetchone()
    assert found is not None
    return tuple(found)
