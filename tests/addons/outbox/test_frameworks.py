"""What SQLAlchemy, Django and psycopg2 have as a connection is one that an outbox takes. Skipped without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event
from eventbus_mp.addons.outbox import Outbox
from tests.addons.outbox.databases import Database


def ids(database: Database) -> list[Any]:
    with database.open() as store:
        return [item.row.id for item in store.items("waiting", after=0, limit=9)]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy(database: Database, driver: str) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    if database.dialect == "postgresql":
        pytest.importorskip(driver)
    engine = sqlalchemy.create_engine(database.url.replace("postgresql://", f"postgresql+{driver}://"))
    with orm.Session(engine) as session:
        for id, end in ((1, session.commit), (2, session.rollback)):
            session.execute(sqlalchemy.text(f"INSERT INTO orders VALUES ({id})"))
            Outbox(session.connection().connection.driver_connection).add(Event(id, "a", {"n": id}))
            end()
        with session.begin():
            session.execute(sqlalchemy.text("INSERT INTO orders VALUES (3)"))
            with session.begin_nested() as attempt:
                Outbox(session.connection().connection.driver_connection).add(Event("undone", "a", None))
                attempt.rollback()
            Outbox(session.connection().connection.driver_connection).add(Event(3, "a", None))
    engine.dispose()
    assert ids(database) == database.orders() == [1, 3]


@pytest.fixture
def configured(database: Database) -> Any:
    """Django, with this database as its only one."""
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(USE_TZ=True)
        django.setup()
    if database.dialect == "sqlite":
        where = {"ENGINE": "django.db.backends.sqlite3", "NAME": database.url.removeprefix("sqlite:///")}
    else:
        name, folder = database.url.split("@/")[1].split("?host=")
        where = {"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": "postgres", "HOST": folder}
    alias = f"of_a_test_{len(connections.settings)}"
    connections.settings[alias] = connections.configure_settings({"default": where})["default"]
    yield connections[alias]
    connections[alias].close()


def test_django(database: Database, configured: Any) -> None:
    from django.db import transaction

    def place(id: int, *, fails: bool = False) -> None:
        with transaction.atomic(using=configured.alias):
            with configured.cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (%s)", [id])
            Outbox(configured.connection).add(Event(id, "a", {"n": id}))
            if fails:
                raise KeyError(id)

    place(1)
    with pytest.raises(KeyError):
        place(2, fails=True)
    with transaction.atomic(using=configured.alias):
        with pytest.raises(KeyError):
            place(3, fails=True)  # A savepoint.
        place(4)
    assert ids(database) == database.orders() == [1, 4]


def test_psycopg2(postgresql_url: str) -> None:
    psycopg2: Any = pytest.importorskip("psycopg2")
    database = Database("postgresql", postgresql_url)
    connection = psycopg2.connect(database.url)
    end: Callable[[], None]
    for id, end in ((1, connection.commit), (2, connection.rollback)):
        Outbox(connection).add(Event(id, "a", memoryview(b"\0\1" * 1_000), source="☃"))
        Outbox(connection).add_many([Event(str(id), "a", None)])
        end()
    connection.close()
    assert ids(database) == [1, "1"]
    database.close()
