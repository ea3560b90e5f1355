"""PostgreSQL for the addons that use it: the only module that imports psycopg. It needs the extra `postgresql`."""

from __future__ import annotations

import os
from typing import Any

from eventbus_mp import UsageError

try:
    import psycopg
except ImportError as cause:  # Or it is there without the libpq that it needs.
    raise UsageError(
        "PostgreSQL needs the package psycopg, which is not installed; type: pip install 'eventbus-mp[postgresql]'"
    ) from cause

__all__ = ["SCHEMES", "connected", "one_line", "psycopg"]

SCHEMES = ("postgresql://", "postgres://")
"""How the URL of a database begins."""
DEFAULTS = {
    "connect_timeout": "10",
    # A server whose machine is gone says nothing: after half a minute the connection is lost, and not after two hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Parameters of a connection, for those that neither its URL nor the environment gives."""


def connected(url: str, application: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection in autocommit mode; to be used by one thread at a time, and to be closed. Blocks until it is there.

    Args:
        url: As libpq reads it: `postgresql://user@host/database?sslmode=require`. It reads PG* variables as well.
        application: What the server calls it in `pg_stat_activity`.

    Raises:
        psycopg.OperationalError: There is none to be had now.
        psycopg.ProgrammingError: The URL is not valid.
    """
    given = psycopg.conninfo.conninfo_to_dict(url)
    defaults = {name: value for name, value in DEFAULTS.items() if name not in given}
    if "PGCONNECT_TIMEOUT" in os.environ:
        defaults.pop("connect_timeout", None)
    parameters = psycopg.conninfo.make_conninfo(url, application_name=application, **defaults)
    return psycopg.connect(parameters, autocommit=True)


def one_line(error: psycopg.Error) -> str:
    """What an error says, on one line: the server's own sentence has more of them at times."""
    primary = error.diag.message_primary
    return primary if primary is not None else " ".join(str(error).split())
