"""The databases that an outbox can be in, as a user of them has them: the same suite runs over each."""

from __future__ import annotations

import sqlite3
from typing import Any

from eventbus_mp.addons.outbox import Outbox, OutboxStore, open_outbox

__all__ = ["DATABASES", "Database"]

DATABASES = ("sqlite", "postgresql")


class Database:
    """A database with a table `orders` of the user's and an outbox; `url` is all that a relay gets."""

    def __init__(self, dialect: str, url: str, *, is_new: bool = True) -> None:
        self.dialect = dialect
        self.url = url
        self._opened: list[Any] = []
        if not is_new:
            return
        connection = self.connect()
        Outbox.create_table(connection)
        connection.cursor().execute("CREATE TABLE orders (id bigint)")
        connection.commit()

    def connect(self) -> Any:
        """A connection as its driver gives it: a transaction begins with the first statement that writes."""
        if self.dialect == "sqlite":
            connection: Any = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30, check_same_thread=False)
        else:
            import psycopg

            connection = psycopg.connect(self.url)
        self._opened.append(connection)
        return connection

    def open(self) -> OutboxStore:
        """As a relay opens it."""
        store = open_outbox(self.url)
        self._opened.append(store)
        return store

    def orders(self) -> list[int]:
        """What the user's table has."""
        return [id for (id,) in self.query("SELECT id FROM orders ORDER BY id")]

    def query(self, statement: str) -> list[Any]:
        connection = self.connect()
        found = connection.cursor().execute(statement)
        rows = found.fetchall() if found.description is not None else []
        connection.commit()
        connection.close()
        return rows

    def place_order(self, connection: Any, id: int) -> None:
        """A statement of the user's, in the transaction that is open or begins by it."""
        connection.cursor().execute(f"INSERT INTO orders VALUES ({id})")

    def close(self) -> None:
        for one in self._opened:
            one.close()
