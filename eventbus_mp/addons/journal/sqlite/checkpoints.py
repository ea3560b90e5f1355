"""The checkpoints of replays, in a SQLite file of their own.

Replays are other processes than the journal's one writer. This file has no write-ahead log, so any number may write it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventbus_mp.addons.journal.sqlite.connection import asking, check_version, connected, is_empty, make_tables, told
from eventbus_mp.addons.journal.sqlite.files import prepare
from eventbus_mp.addons.journal.sqlite.schema import CHECKPOINTS_ID, CHECKPOINTS_TABLE
from eventbus_mp.addons.journal.store import Checkpoint

__all__ = ["CheckpointFile"]

_COLUMNS = "name, target, next_position, until_position, updated_ns, ended"


class CheckpointFile:
    """Args:
    path: The file; it is made when the first checkpoint is saved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[Checkpoint]:
        """All checkpoints, by name."""
        if not self._path.is_file():
            return []
        with self._open() as db:
            found = db.execute(f"SELECT {_COLUMNS} FROM checkpoints ORDER BY name").fetchall()
        return [
            Checkpoint(name, target, next_position, until_position, updated_ns, bool(ended))
            for name, target, next_position, until_position, updated_ns, ended in found
        ]

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, in the place of the one of its name."""
        values = (
            checkpoint.name,
            checkpoint.target,
            checkpoint.next_position,
            checkpoint.until_position,
            checkpoint.updated_ns,
            checkpoint.ended,
        )
        prepare(self._path)
        with self._open() as db:
            db.execute(f"REPLACE INTO checkpoints ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)

    def drop(self, name: str) -> bool:
        """Forget a checkpoint; False: there is none."""
        if not self._path.is_file():
            return False
        with asking(str(self._path)), self._open() as db:
            return db.execute("DELETE FROM checkpoints WHERE name = ?", (name,)).rowcount > 0

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the file has to exist."""
        is_writable = os.access(self._path, os.W_OK)  # Not on a read-only disk, where they can be read all the same.
        with told(self._path):
            db = connected(self._path, "rw" if is_writable else "ro")
            try:
                db.execute("PRAGMA synchronous = FULL")
                db.execute("BEGIN IMMEDIATE" if is_writable else "BEGIN")
                if is_empty(db):
                    make_tables(db, CHECKPOINTS_TABLE, CHECKPOINTS_ID)
                check_version(db, CHECKPOINTS_ID, self._path)
                yield db
                db.execute("COMMIT")
            finally:
                db.close()  # It rolls back what was not committed.
