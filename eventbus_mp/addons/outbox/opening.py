"""From the URL of a database to its outbox."""

from __future__ import annotations

import re
from urllib.parse import unquote

from eventbus_mp import UsageError
from eventbus_mp.addons.checks import checked_number, checked_text
from eventbus_mp.addons.journal.urls import shown_url
from eventbus_mp.addons.outbox.schema import TABLE
from eventbus_mp.addons.outbox.store import OutboxStore

__all__ = ["open_outbox"]

SQLITE = "sqlite:///"
POLL_MAX_S = 3_600
_POSTGRESQL = re.compile(r"(postgresql|postgres)(\+\w+)?://")
"""With the driver behind a plus, as SQLAlchemy has it."""


def open_outbox(url: str, *, table: str = TABLE, poll_s: float | None = None) -> OutboxStore:
    """Open the outbox of a database that has one; close it when it is not needed any more.

    Args:
        url: `sqlite:///PATH`, with four slashes an absolute one; or `postgresql://USER@HOST/DATABASE`, as libpq and
            SQLAlchemy know it.
        table: As of `Outbox`.
        poll_s: How often to look in SQLite for what was committed, in seconds (default: 0.02); in PostgreSQL, if no
            notification comes (default: 1).

    Raises:
        UsageError: It is not such a URL, the package psycopg is missing, or another argument is not valid.
        StoreUnavailable: The database is not there, or not now.
        StoreUnusable: It has no such table, or is not a database.
    """
    checked_text("url", url)
    if poll_s is not None:
        checked_number("poll_s", poll_s, POLL_MAX_S)
    path = unquote(url.removeprefix(SQLITE))
    if url.startswith(SQLITE) and path and "\0" not in path:
        from eventbus_mp.addons.outbox.sqlite import SqliteOutbox

        return SqliteOutbox(path, table, poll_s=poll_s)
    if _POSTGRESQL.match(url) is not None:
        from eventbus_mp.addons.outbox.postgresql import PostgresqlOutbox

        return PostgresqlOutbox(_POSTGRESQL.sub("postgresql://", url, count=1), table, poll_s=poll_s)
    raise UsageError(
        f"{shown_url(url)!r} is not the URL of a database; give sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    )
