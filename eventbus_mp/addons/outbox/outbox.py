"""Outbox: events written in the transaction that makes them true, in the user's own database and connection.

When the transaction commits, a `Relay` publishes them; when it is rolled back, they were never there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from eventbus_mp import BusConfig, Event, EventBusError, UsageError
from eventbus_mp.addons.journal.row import RefusedRow, row_of
from eventbus_mp.addons.outbox.ids import stored_id
from eventbus_mp.addons.outbox.schema import TABLE, schema, statements_of

__all__ = ["Outbox", "dialect_of", "insert_statement"]

SQLITE_MODULES = ("sqlite3", "pysqlite3", "sqlcipher3")
POSTGRESQL_MODULES = ("psycopg", "psycopg2")
Values = tuple[Any, ...]


class Outbox:
    """Adds events to the outbox of a database, through a connection of the caller's.

    It begins no transaction and ends none: what the connection does by itself before an INSERT, it does here. An event
    that is added in autocommit mode, outside a transaction, is stored at once. Made in a microsecond, it may be made
    for each transaction; it is used where its connection may be used.

    Args:
        connection: Of sqlite3, psycopg or psycopg2.
        table: The table's name; `schema.name` in PostgreSQL.
        wake: Whether COMMIT wakes the relay (`NOTIFY` of PostgreSQL); if not, it looks by itself, once a second. SQLite
            has no such thing, and its relay always looks.

    Raises:
        UsageError: It is not such a connection, or no table can have this name.
    """

    __slots__ = ("_connection", "_dialect", "_statements", "_table", "_wake")

    def __init__(self, connection: Any, *, table: str = TABLE, wake: bool = True) -> None:
        self._connection = connection
        self._dialect = dialect_of(connection)
        self._statements = statements_of(self._dialect, table)
        self._wake = wake

    def add(self, event: Event) -> None:
        """Encode the event, and insert it: it is published when the transaction has committed, and not before.

        Blocks as an INSERT of this connection does. If it raises, nothing was written.

        Args:
            event: As for `EventBus.notify`. Its data is encoded here; nobody has to know its types later.

        Raises:
            EncodeError: Its data cannot travel.
            UsageError: It is not an event, its topic cannot be one (`InvalidTopic`), or the database cannot hold one
                of its fields.
            Exception: The driver's own errors, as from any INSERT: there is no such table, the database is locked.
        """
        values = _values_of(event, self._dialect)
        statements = self._statements
        cursor = self._connection.cursor()
        try:
            cursor.execute(statements.add_and_wake if self._wake else statements.add, values)
        finally:
            cursor.close()

    def add_many(self, events: Iterable[Event]) -> None:
        """As `add`, for several: all are encoded before the first one is inserted. They are published in this order.

        In autocommit mode, outside a transaction, each one is stored by itself.
        """
        if not isinstance(events, Iterable):
            raise UsageError(f"Outbox.add_many({events!r:.80}): give a list of events")
        rows = [_values_of(event, self._dialect) for event in events]
        if not rows:
            return
        statements = self._statements
        cursor = self._connection.cursor()
        try:
            cursor.executemany(statements.add, rows)
            if self._wake and statements.wake:
                cursor.execute(statements.wake)
        finally:
            cursor.close()

    @staticmethod
    def create_table(connection: Any, *, table: str = TABLE) -> None:
        """Make the table and its indexes, in the transaction of this connection; what is there already stays.

        `schema` has the same statements as text, for migrations. Two processes that do it at one moment may fail with
        an error of the database, as from any CREATE TABLE.

        Raises:
            UsageError: It is not a connection as of `Outbox`, or no table can have this name.
            Exception: The driver's own errors.
        """
        cursor = connection.cursor()
        try:
            # Not `executescript`, which would commit.
            for statement in filter(str.strip, schema(dialect_of(connection), table).split(";")):
                cursor.execute(statement)
        finally:
            cursor.close()


def insert_statement(
    event: Event, *, dialect: str = "postgresql", table: str = TABLE, wake: bool = True
) -> tuple[str, Values]:
    """The statement that adds an event, and its parameters, for a connection that `Outbox` cannot use: an async one.

        await connection.execute(*insert_statement(event))

    Args:
        event: As of `Outbox.add`.
        dialect: "postgresql", with the parameters `%s`; or "sqlite", with `?`.
        table: As of `Outbox`.
        wake: As of `Outbox`.

    Raises:
        EncodeError, UsageError: As of `Outbox.add`.
    """
    statements = statements_of(dialect, table)
    return statements.add_and_wake if wake else statements.add, _values_of(event, dialect)


def dialect_of(connection: Any) -> str:
    """ "sqlite" or "postgresql"; raises as `Outbox`."""
    kinds = type(connection).__mro__
    modules = {kind.__module__.partition(".")[0] for kind in kinds}
    if not modules.isdisjoint(SQLITE_MODULES):
        return "sqlite"
    if any(kind.__name__.startswith("Async") for kind in kinds) and "psycopg" in modules:
        raise UsageError(
            f"Outbox({connection!r:.80}): a connection of asyncio; write: await connection.execute(*"
            "insert_statement(event))"
        )
    if not modules.isdisjoint(POSTGRESQL_MODULES):
        return "postgresql"
    raise UsageError(
        f"Outbox({connection!r:.80}): give a connection of sqlite3, psycopg or psycopg2. SQLAlchemy has it as "
        "session.connection().connection.driver_connection, Django as connection.connection"
    )


@lru_cache(maxsize=1_024)
def _check_topic(topic: str) -> None:
    BusConfig(topics=(topic,))  # As a producer's handle would, but for each topic once.


def _values_of(event: Event, dialect: str) -> Values:
    """The parameters of an INSERT; raises as `Outbox.add`."""
    if not isinstance(event, Event):
        raise UsageError(f"Outbox.add({event!r:.80}): give an Event")
    _check_topic(event.topic)
    try:
        row = row_of(event, time.time_ns(), 1)
    except RefusedRow as refused:
        if isinstance(refused.__cause__, EventBusError):
            raise refused.__cause__ from None
        raise UsageError(f"event {event.id!r} of topic {event.topic!r} fits into no database: {refused}") from refused
    values = row[:-1]
    if dialect == "sqlite":
        return values
    for name in ("topic", "id", "transaction_id", "source"):
        text = getattr(row, name)
        if type(text) is str and "\0" in text:
            raise UsageError(f"{name}={text!r:.80}: PostgreSQL has no texts with a NUL")
    return (row.topic, *stored_id(row.id), *stored_id(row.transaction_id), *values[3:])
