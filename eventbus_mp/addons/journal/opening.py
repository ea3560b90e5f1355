"""From the URL of a store to the store."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from eventbus_mp import UsageError
from eventbus_mp.addons.checks import checked_text
from eventbus_mp.addons.journal.sqlite.store import SqliteStore
from eventbus_mp.addons.journal.store import Store
from eventbus_mp.addons.journal.urls import shown_url

__all__ = ["default_url", "open_store", "state_directory"]

SQLITE = "sqlite:///"
POSTGRESQL = ("postgresql://", "postgres://")


def default_url(bus: str) -> str:
    """Where the journal of a bus is, if nothing else is said: a SQLite file in the user's state directory."""
    path = f"{state_directory() / checked_text('bus', bus)}.db"
    return f"{SQLITE}{path.replace('%', '%25')}"


def state_directory() -> Path:
    """Where this user's journals are, if nothing else is said."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "eventbus-mp"


def open_store(url: str, *, writes: bool = False) -> Store:
    """Open a journal's store; close it when it is not needed any more.

    Args:
        url: `sqlite:///PATH`; with four slashes the path is absolute. Or `postgresql://USER@HOST/DATABASE`, as libpq
            reads it, with `?schema=NAME` if the journal is in another schema than `eventbus_journal`.
        writes: Whether to write, which one process at a time can: see `Store.take_lock`. If not, the store has to
            exist. Checkpoints of replays can be written in either case.

    Raises:
        UsageError: It is not such a URL; or it needs a package that is not installed.
        StoreUnavailable, StoreUnusable: As of `Store`.
    """
    url = checked_text("url", url)
    if url.startswith(POSTGRESQL):
        from eventbus_mp.addons.journal.postgresql.store import PostgresqlStore  # It needs psycopg.

        return PostgresqlStore(url, writes=writes)
    path = unquote(url.removeprefix(SQLITE))
    if not url.startswith(SQLITE) or not path or "\0" in path:
        raise UsageError(
            f"{shown_url(url)!r} is not a URL of a journal; give sqlite:///PATH, or postgresql://HOST/DATABASE"
        )
    return SqliteStore(path, writes=writes)
