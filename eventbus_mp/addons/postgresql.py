"""PostgreSQL for the addons that use it: the only module that imports psycopg. It needs the extra `postgresql`."""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

from eventbus_mp import UsageError

try:
    import psycopg
except ImportError as cause:  # Or it is there without the libpq that it needs.
    raise UsageError(
        "PostgreSQL needs the package psycopg, which is not installed; type: pip install 'eventbus-mp[postgresql]'"
    ) from cause

__all__ = ["connected", "one_line", "psycopg"]

DEFAULTS = {
    "client_encoding": "UTF8",
    "connect_timeout": "5",
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

    A child that is forked keeps no copy of it: the server takes a session for alive as long as anybody has its socket.

    Raises:
        psycopg.OperationalError: There is none to be had now.
        UsageError: The URL is not valid.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as cause:
        raise UsageError(f"that is not the URL of a PostgreSQL database: {one_line(cause)}") from cause
    defaults = {name: value for name, value in DEFAULTS.items() if name not in given}
    if "PGCONNECT_TIMEOUT" in os.environ:
        defaults.pop("connect_timeout", None)
    parameters = psycopg.conninfo.make_conninfo(url, application_name=application, **defaults)
    connection = psycopg.connect(parameters, autocommit=True)
    _connections.add(connection)
    return connection


def one_line(error: psycopg.Error) -> str:
    """What an error says, on one line: the server's own sentence has more of them at times."""
    primary = error.diag.message_primary
    return primary if primary is not None else " ".join(str(error).split())


_connections: WeakSet[psycopg.Connection[Any]] = WeakSet()


def _leave_to_parent() -> None:
    """In a forked child: let go of the sockets, without a word to the server."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for connection in _connections:
        if not connection.closed:
            os.dup2(nothing, connection.fileno(), inheritable=False)
    _connections.clear()
    os.close(nothing)


os.register_at_fork(after_in_child=_leave_to_parent)
