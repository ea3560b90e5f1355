"""An event is added in the transaction of the user's own connection: nothing of it is there before, or without it."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EncodeError, Event, EventBus, InvalidTopic, UsageError
from eventbus_mp.addons.journal import event_of
from eventbus_mp.addons.outbox import Item, Outbox, insert_statement, schema
from tests.addons.outbox.databases import Database

EVERYTHING: dict[str, Any] = {
    "transaction_id": 7,
    "initialized_at": -(1 << 63),
    "occurred_at": (1 << 63) - 1,
    "source": "shop ☃",
    "ttl": 0,
    "headers": {"trace": "a\0b"},
}


def waiting(database: Database) -> list[Item]:
    with database.open() as store:
        return store.items("waiting", after=0, limit=1_000)


def ids(database: Database) -> list[str | int]:
    return [item.row.id for item in waiting(database)]


def test_what_is_committed_is_there_with_what_the_user_wrote(database: Database) -> None:
    connection = database.connect()
    database.place_order(connection, 1)
    Outbox(connection).add(Event(1, "a", {"amount": 20}))
    assert (ids(database), database.orders()) == ([], [])
    connection.commit()
    assert (ids(database), database.orders()) == ([1], [1])


def test_what_is_rolled_back_was_never_there(database: Database) -> None:
    connection = database.connect()
    database.place_order(connection, 1)
    Outbox(connection).add(Event(1, "a", None))
    Outbox(connection).add_many(Event(number, "a", None) for number in range(2, 5))
    connection.rollback()
    assert (ids(database), database.orders()) == ([], [])


def test_a_savepoint_takes_its_events_along(database: Database) -> None:
    connection = database.connect()
    outbox = Outbox(connection)
    outbox.add(Event("before", "a", None))
    connection.cursor().execute("SAVEPOINT attempt")
    outbox.add(Event("inside", "a", None))
    connection.cursor().execute("ROLLBACK TO SAVEPOINT attempt")
    outbox.add(Event("after", "a", None))
    connection.commit()
    assert ids(database) == ["before", "after"]


def test_every_field_comes_back_as_it_was(database: Database) -> None:
    connection = database.connect()
    events = [
        Event("7", "a", {"n": [1, b"bytes", None]}, **EVERYTHING),
        Event(7, "ä b", memoryview(b"abc" * 100)),
        Event("'quote'", "a", None, transaction_id='"'),
        Event(-(1 << 63), "a", "☃"),
    ]
    Outbox(connection).add_many(events)
    connection.commit()
    found = [event_of(item.row) for item in waiting(database)]
    for event, other in zip(events, found, strict=True):
        assert (other.id, other.topic, bytes(other.encoded.data)) == (event.id, event.topic, event.encoded.data)
        assert [bytes(one) for one in other.encoded.buffers] == [bytes(one) for one in event.encoded.buffers]
        for name in EVERYTHING:
            assert getattr(other, name) == getattr(event, name)


def test_a_fetched_event_is_sent_on_without_its_types(database: Database, bus: EventBus) -> None:
    connection = database.connect()
    with bus.inbox("s", ["a"]) as inbox:
        bus.notify(Event(1, "a", {"n": 1}, source="x"))
        ((shadow, event),) = inbox.events(1)
        Outbox(connection).add(event)
        del event
        inbox.complete(shadow)
    connection.commit()
    (item,) = waiting(database)
    assert event_of(item.row).data == {"n": 1}


@pytest.mark.parametrize(
    ("event", "error", "said"),
    [
        (Event(1, "a", object()), EncodeError, "data: <class 'object'> cannot travel"),
        (Event(1, "a", None, occurred_at=1 << 63), UsageError, "has more than 64 bits"),
        (Event(1, "a", None, source=7), UsageError, "source=7 is a int"),  # type: ignore[arg-type]
        ("no event", UsageError, "give an Event"),
        (Event(1, "no\ntopic", None), InvalidTopic, "has a control character"),
    ],
)
def test_what_cannot_be_added_is_an_error_at_once_and_harms_no_transaction(
    database: Database, event: Event, error: type[Exception], said: str
) -> None:
    connection = database.connect()
    outbox = Outbox(connection)
    outbox.add(Event("good", "a", None))
    with pytest.raises(error, match=said):
        outbox.add(event)
    with pytest.raises(error, match=said):
        outbox.add_many([Event("with the bad one", "a", None), event])
    connection.commit()
    assert ids(database) == ["good"]


def test_many_are_none(database: Database) -> None:
    Outbox(database.connect()).add_many([])
    with pytest.raises(UsageError, match="give a list of events"):
        Outbox(database.connect()).add_many(None)  # type: ignore[arg-type]
    assert ids(database) == []


def test_the_table_is_made_in_the_users_transaction(database: Database) -> None:
    connection = database.connect()
    connection.cursor().execute("BEGIN")
    Outbox.create_table(connection, table="other")
    Outbox.create_table(connection, table="other")
    connection.rollback()
    with pytest.raises(Exception, match=r"no such table|does not exist"):
        Outbox(connection, table="other").add(Event(1, "a", None))


def test_the_schema_as_text_makes_the_same_table(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "test.db")
    connection.executescript(schema("sqlite", "first"))
    Outbox.create_table(connection, table="second")
    texts = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    connection.close()
    assert texts["first"].replace("first", "second") == texts["second"]
    assert {"second_waiting", "second_done"} < set(texts)


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "A", "a.b.c", "x" * 49, "a;b", 7])
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_no_table_has_this_name(dialect: str, name: str) -> None:
    with pytest.raises(UsageError, match="give a name"):
        schema(dialect, name)


def test_what_is_no_connection_is_refused_with_what_to_give() -> None:
    with pytest.raises(UsageError, match="SQLAlchemy has it as"):
        Outbox(object())
    with pytest.raises(UsageError, match="neither 'sqlite' nor 'postgresql'"):
        schema("mysql")


# --- SQLite, in each way in which a connection can be ---


@pytest.mark.parametrize("level", [None, "", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_each_isolation_level_of_sqlite(tmp_path: Path, level: Any) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=level)
    if level is None:
        connection.execute("BEGIN")
    Outbox(connection).add(Event(1, "a", None))
    assert connection.in_transaction
    connection.rollback()
    assert ids(database) == []
    with connection:
        if level is None:
            connection.execute("BEGIN")
        Outbox(connection).add(Event(2, "a", None))
    assert ids(database) == [2]
    connection.close()
    database.close()


def test_a_bare_connection_in_autocommit_mode_stores_at_once(tmp_path: Path) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    Outbox(connection).add(Event(1, "a", None))
    assert not connection.in_transaction
    assert ids(database) == [1]
    connection.close()
    database.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3.connect(autocommit=) came with 3.12")
def test_autocommit_off_of_sqlite(tmp_path: Path) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    connection: Any = sqlite3.connect(tmp_path / "shop.db", autocommit=False)  # type: ignore[call-overload]
    Outbox(connection).add(Event(1, "a", None))
    connection.rollback()
    Outbox(connection).add(Event(2, "a", None))
    connection.commit()
    assert ids(database) == [2]
    connection.close()
    database.close()


# --- psycopg, in each way in which a connection can be ---


@pytest.fixture
def postgresql(postgresql_url: str) -> Any:
    database = Database("postgresql", postgresql_url)
    yield database
    database.close()


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_transaction_block_of_psycopg(postgresql: Database, autocommit: bool) -> None:
    connection = postgresql.connect()
    connection.autocommit = autocommit
    with connection.transaction():
        Outbox(connection).add(Event("outer", "a", None))
        with connection.transaction(force_rollback=True):
            Outbox(connection).add(Event("rolled back", "a", None))
        with connection.transaction():
            Outbox(connection).add_many([Event("inner", "a", None)])
    assert ids(postgresql) == ["outer", "inner"]


def test_a_pipeline_and_other_cursors_of_psycopg(postgresql: Database) -> None:
    import psycopg
    from psycopg.rows import dict_row

    connection = postgresql.connect()
    with connection.pipeline():
        Outbox(connection).add(Event(1, "a", b"\0\1"))
    connection.row_factory = dict_row
    connection.cursor_factory = psycopg.ClientCursor
    Outbox(connection).add(Event(2, "a", b"\0\1", transaction_id="x"))
    connection.commit()
    assert [event_of(item.row).data for item in waiting(postgresql)] == [b"\0\1"] * 2


def test_a_nul_in_a_text_does_not_reach_postgresql(postgresql: Database) -> None:
    connection = postgresql.connect()
    for event in (Event(1, "a", None, source="\0"), Event("\0", "a", None), Event(1, "a", None, transaction_id="\0")):
        with pytest.raises(UsageError, match="no texts with a NUL"):
            Outbox(connection).add(event)
    Outbox(connection).add(Event(2, "a", None))
    connection.commit()
    assert ids(postgresql) == [2]


def test_an_async_connection_takes_the_statement(postgresql: Database) -> None:
    import asyncio

    import psycopg

    async def add() -> None:
        async with await psycopg.AsyncConnection.connect(postgresql.url) as connection:
            with pytest.raises(UsageError, match="insert_statement"):
                Outbox(connection)
            await connection.execute(*insert_statement(Event("7", "a", {"n": 1})))
            async with connection.transaction(force_rollback=True):
                await connection.execute(*insert_statement(Event(8, "a", None), wake=False))

    asyncio.run(add())
    assert ids(postgresql) == ["7"]


def test_a_table_in_a_schema(postgresql: Database) -> None:
    connection = postgresql.connect()
    connection.execute("CREATE SCHEMA events")
    Outbox.create_table(connection, table="events.outbox")
    Outbox(connection, table="events.outbox").add(Event(1, "a", None))
    connection.commit()
    assert postgresql.query("SELECT topic FROM events.outbox") == [("a",)]
