"""The connection of a SQLite store: what file it may open, who writes, and what each call goes through."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventbus_mp import UsageError
from eventbus_mp.addons.journal.sqlite.files import (
    WriterLock,
    check_file_system,
    frozen_state,
    identity_of,
    prepare,
)
from eventbus_mp.addons.journal.sqlite.schema import APPLICATION_ID, TABLES, VERSION, VERSION_MIN
from eventbus_mp.addons.journal.store import StoreLocked, StoreUnavailable, StoreUnusable

__all__ = ["ROW_FAULTS", "Database", "asking", "check_version", "connected", "is_empty", "make_tables", "told"]

BUSY_TIMEOUT_S = 5.0
CACHE_KIB = 64 << 10
LOG_BYTES_MAX = 64 << 20
ROW_FAULTS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
"""What sqlite3 raises for a value that it cannot bind or store."""


class Database:
    """Args:
        path: The file.
        writes: Whether to write: `take_lock` then makes the file if it is missing. If not, it has to exist.
        synchronous: "FULL": what is stored survives a loss of power. "NORMAL": the last commits may not.

    Raises:
        StoreUnavailable: There is no such file, or it cannot be opened now.
        StoreUnusable: It is not a journal, or it is damaged, of a newer version, or on a network file system.
    """

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = False, synchronous: str = "FULL") -> None:
        if sqlite3.sqlite_version_info < VERSION_MIN:
            raise StoreUnusable(f"SQLite {sqlite3.sqlite_version} has no strict tables; 3.37 or later has")
        if synchronous not in ("FULL", "NORMAL"):
            raise UsageError(f"synchronous={synchronous!r} is neither FULL nor NORMAL")
        self.path = Path(path).absolute()
        self.url = f"sqlite:///{self.path}".replace("%", "%25")
        self._writes = writes
        self._synchronous = synchronous
        self._pid = os.getpid()
        self._lock = WriterLock(Path(f"{self.path.resolve()}.lock"))  # By whatever link it was opened.
        self._identity: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None
        """Of the write-ahead log."""
        self._frozen: tuple[int, int] | None = None
        """What the file was when it was opened, if it is on a read-only disk."""
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        self._numbers: dict[str, int] = {}
        """Topic -> its number."""
        self._recorded_ns = 0
        """That of the last row."""
        if not writes:
            self._open_for_reading()

    # --- opening ---

    def _open_for_reading(self) -> None:
        try:
            is_there = self.path.is_file()
            self._frozen = frozen_state(self.path) if is_there else None
        except OSError as cause:
            raise StoreUnavailable(f"{self.path} cannot be opened: {cause.strerror or cause}") from cause
        if not is_there:
            raise StoreUnavailable(f"there is no journal {self.path}")
        check_file_system(self.path)
        try:
            with told(self.path):
                self._connect("ro" if self._frozen is None else "ro&immutable=1")
                check_version(self._db, APPLICATION_ID, self.path)
        except BaseException:
            self._let_go()
            raise

    def take_lock(self) -> bool:
        """Become the one writer, and make or migrate what is missing; False: another process is. Does not wait."""
        if not self._writes:
            raise UsageError(f"{self.url} was opened for reading")
        self._check_pid()
        if self._connection is not None and self._lock.is_held:
            return True
        prepare(self.path)
        if not self._lock.take():
            return False
        with told(self.path):
            self._open_for_writing()
        return True

    def _open_for_writing(self) -> None:
        self._let_go()
        self._connect("rw")
        try:
            db = self._db
            if is_empty(db):
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            else:
                check_version(db, APPLICATION_ID, self.path)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
            db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX}")
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            with self._transaction():
                if is_empty(db):
                    make_tables(db, TABLES, APPLICATION_ID)
            self._numbers = dict(db.execute("SELECT name, number FROM topics"))
            last = db.execute("SELECT recorded_ns FROM events ORDER BY position DESC LIMIT 1").fetchone()
            self._recorded_ns = last[0] if last is not None else 0
            self._log_identity = identity_of(Path(f"{self.path}-wal"))
        except BaseException:
            self._let_go()
            raise

    def _open_again(self) -> None:
        """The file was deleted or replaced, or could not be opened the last time."""
        self._leave_log_behind()
        prepare(self.path)
        if not self._lock.is_current and not self._lock.take():
            raise StoreLocked(f"{self.path} was replaced, and another process writes the new one")
        self._open_for_writing()

    def _leave_log_behind(self) -> None:
        """Have the file that was there take in its write-ahead log, which would be read as that of the new one.

        Raises:
            StoreUnavailable: A reader is in the middle of the log.
        """
        if self._connection is not None:
            (is_busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise StoreUnavailable(f"{self.path} was deleted or replaced, and a reader still reads what was there")
        self._let_go()
        log = Path(f"{self.path}-wal")
        if identity_of(log) == self._log_identity:
            log.unlink(missing_ok=True)
            Path(f"{self.path}-shm").unlink(missing_ok=True)

    def _connect(self, mode: str) -> None:
        self._identity = identity_of(self.path)
        self._connection = connected(self.path, mode)

    @property
    def _db(self) -> sqlite3.Connection:
        self._check_pid()
        if self._connection is None:
            raise UsageError(f"{self.url} is closed, or its lock is not held")
        return self._connection

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            raise UsageError(f"{self.url} was opened in process {self._pid}, before a fork; open it again in the child")

    # --- what every call goes through ---

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the writer. When it ends well, it is on the disk, in the file that the path names.

        Raises:
            StoreUnavailable: Not now, or the file was deleted or replaced since it was opened.
        """
        self._check_pid()
        if not self._writes or not self._lock.is_held:
            raise UsageError(f"{self.url}: only who holds its lock may write; see Store.take_lock")
        with told(self.path):
            if self._connection is None or identity_of(self.path) != self._identity:
                self._open_again()
            with self._transaction():
                yield self._db
            if identity_of(self.path) != self._identity:
                raise StoreUnavailable(f"{self.path} was deleted or replaced underneath")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        db, known = self._db, len(self._numbers)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite itself rolls back when the disk is full.
                db.execute("ROLLBACK")
            for name in list(self._numbers)[known:]:
                del self._numbers[name]
            raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with asking(self.url), told(self.path):
            if not self._writes and not self._is_closed:
                self._check_is_same()
            yield self._db

    def _check_is_same(self) -> None:
        """For a reader, which would read for ever what the path does not name any more.

        Raises:
            StoreUnavailable: The file was deleted or replaced since it was opened. The next call opens the new one.
        """
        self._check_pid()
        if self._frozen is not None and self._frozen != frozen_state(self.path):
            self._let_go()  # Somebody writes it by now.
        if self._connection is None:
            self._open_for_reading()
        elif identity_of(self.path) != self._identity:
            self._let_go()
            raise StoreUnavailable(f"{self.path} was deleted or replaced since it was opened")

    # --- the end ---

    def close(self) -> None:
        """Give up the lock, and let go of everything. Repeated, it does nothing."""
        if self._pid == os.getpid():
            self._is_closed = True
            self._let_go()
            self._lock.release()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Say it of a question if it has a value that SQLite cannot bind."""
    try:
        yield
    except ROW_FAULTS as cause:
        raise UsageError(f"{url}: no entry can have this value: {cause}") from cause


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into those of a store; but those of a value that it cannot store stay."""
    try:
        yield
    except ROW_FAULTS:
        raise
    except sqlite3.DatabaseError as cause:
        if type(cause) is sqlite3.DatabaseError:
            raise StoreUnusable(
                f"{path} is damaged ({cause}): `PRAGMA integrity_check` says where; move it away, or restore a copy"
            ) from cause
        raise StoreUnavailable(f"{path}: {cause}") from cause


def connected(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to a file that exists; `mode`: "ro" or "rw", and more parameters of the URI."""
    place = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(
        place, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
    )


def is_empty(db: sqlite3.Connection) -> bool:
    """Whether nothing was ever made in this file."""
    return bool(db.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])


def make_tables(db: sqlite3.Connection, script: str, application_id: int) -> None:
    """Make the tables, in the transaction that is open: `executescript` would end it."""
    for statement in filter(str.strip, script.split(";")):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {application_id}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def check_version(db: sqlite3.Connection, application_id: int, path: Path) -> None:
    """Raises:
    StoreUnusable: The file is not ours, or of a newer version.
    """
    (found,), (version,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
    if found != application_id:
        raise StoreUnusable(f"{path} is a SQLite file, but not a journal of eventbus_mp")
    if version > VERSION:
        raise StoreUnusable(f"{path} is of version {version}; this eventbus_mp knows {VERSION}: use a newer one")
