"""PostgreSQL for the addons that use it: the only module that imports psycopg. It needs the extra `postgresql`."""

from __future__ import annotations

import os
import re
from typing import Any
from weakref import WeakSet

from eventbus_mp import UsageError
from eventbus_mp.addons.journal.urls import shown_url

try:
    import psycopg
except ImportError as cause:  # Or it is there without the libpq that it needs.
    raise UsageError(
        "PostgreSQL needs the package psycopg, which is not installed; type: pip install 'eventbus-mp[postgresql]'"
    ) from cause

__all__ = ["check_session", "connected", "explained", "psycopg"]

_QUOTED = re.compile(r'"[^"]*"')
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
ADVICE: dict[type[psycopg.Error], str] = {
    psycopg.errors.ReadOnlySqlTransaction: (
        "it is a replica, or default_transaction_read_only is on; give the primary: several hosts and "
        "?target_session_attrs=read-write find it"
    ),
    psycopg.errors.InsufficientPrivilege: "GRANT that to the user of this URL, or give another user",
    psycopg.errors.LockNotAvailable: "another session has locked the table; pg_locks says which",
}
"""What to do, by what the server says."""


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
    given = _parameters_of(url)
    defaults = {name: value for name, value in DEFAULTS.items() if name not in given}
    if "PGCONNECT_TIMEOUT" in os.environ:
        defaults.pop("connect_timeout", None)
    parameters = psycopg.conninfo.make_conninfo(url, application_name=application, **defaults)
    connection = psycopg.connect(parameters, autocommit=True)
    _connections.add(connection)
    return connection


def check_session(connection: psycopg.Connection[Any], url: str) -> None:
    """Check that a new connection has a session of its own, before it takes a lock or sets anything in it.

    A pooler that gives one session of the server to many clients, from transaction to transaction, gives away the lock
    as well: two would have it, and others our settings. Behind a pooler, which is known by the number of the process,
    two connections are compared.

    Raises:
        UsageError: It has none.
        psycopg.Error: As of any query.
    """
    pid = _pid_of(connection)
    if pid == connection.info.backend_pid:
        return
    with connected(url, "eventbus-mp") as other:
        if any(_pid_of(one) == pid for one in (other, other)) or _pid_of(connection) != pid:
            raise UsageError(
                f"{shown_url(url)} is a pooler that shares sessions, pgbouncer with pool_mode=transaction for example, "
                "and a lock needs one of its own; give the address of the server, or of a pool with pool_mode=session"
            )


def _pid_of(connection: psycopg.Connection[Any]) -> int:
    (pid,) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone() or (0,)
    return int(pid)


def _parameters_of(url: str) -> dict[str, Any]:
    if "\0" in url:
        raise UsageError("the URL of a PostgreSQL database has a NUL in it")
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as cause:
        # It may quote a password.
        said = _QUOTED.sub('"..."', str(cause)) if shown_url(url) != url else str(cause)
        raise UsageError(f"that is not the URL of a PostgreSQL database: {' '.join(said.split())}") from cause
    hosts, ports = str(given.get("host", "")).split(","), str(given.get("port", "")).split(",")
    # In front, an @ is the sign of a socket without a file.
    if any("@" in host[1:] for host in hosts) or any(port and not port.isdecimal() for port in ports):
        raise UsageError(
            f"{shown_url(url)!r} is not the URL of a PostgreSQL database: in a password, write @ as %40, : as %3A, "
            "/ as %2F, ? as %3F, # as %23 and % as %25"
        )
    return given


def explained(error: psycopg.Error) -> str:
    """What an error says, on one line, and what to do: the server's own sentence has more of them at times."""
    primary = error.diag.message_primary
    said = primary if primary is not None else " ".join(str(error).split())
    return f"{said}; {ADVICE[type(error)]}" if type(error) in ADVICE else said


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
