"""A PostgreSQL server that goes away, and connections that are lost: the relay waits, and comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import StoreLocked, StoreUnavailable
from eventbus_mp.addons.outbox import Outbox, Relay
from tests.addons.outbox.databases import Database
from tests.addons.outbox.test_relay import add, left, taken
from tests.addons.postgresql import Server
from tests.helpers import until


@pytest.fixture
def database(postgresql_url: str) -> Iterator[Database]:
    made = Database("postgresql", postgresql_url)
    yield made
    made.close()


def end_sessions_of_relays(server: Server) -> None:
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eventbus-mp outbox'")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_server_is_away_for_a_while(
    database: Database, bus: EventBus, postgresql_server: Server, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    caplog.set_level(logging.WARNING, "eventbus_mp.outbox")
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url) as relay:
        add(database, Event(1, "a", None))
        assert taken(inbox, 1) == [1]
        until(lambda: left(database) == [])
        postgresql_server.stop(mode)
        try:
            until(lambda: "waits, and tries again" in caplog.text)
        finally:
            postgresql_server.start()
        add(database, Event(2, "a", None))
        found = taken(inbox, 1)
        while found[-1] != 2:
            assert (found, mode) == ([1], "immediate")  # A killed server has forgotten that it was deleted.
            found += taken(inbox, 1)
        until(lambda: "goes on after" in caplog.text)
        assert relay.status().state == "publishing"


def test_a_relay_that_lost_its_session_takes_the_lock_again(
    database: Database, bus: EventBus, postgresql_server: Server
) -> None:
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url):
        for id in range(5):
            end_sessions_of_relays(postgresql_server)
            add(database, Event(id, "a", None))
            assert taken(inbox, 1) == [id]


def test_a_database_that_only_reads_for_a_while(
    database: Database, bus: EventBus, postgresql_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The setting is that of the session, which is not the relay's to keep."""
    caplog.set_level(logging.WARNING, "eventbus_mp.outbox")
    name = database.url.partition("?")[0].rpartition("/")[2]
    add(database, Event(1, "a", None))
    postgresql_server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url):
        assert taken(inbox, 1) == [1]
        until(lambda: "read-only transaction; it is a replica" in caplog.text)
        postgresql_server.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        until(lambda: left(database) == [])


def test_another_one_has_taken_the_lock_meanwhile(database: Database, postgresql_server: Server) -> None:
    with database.open() as first, database.open() as second:
        assert (first.take_lock(), first.take_lock(), second.take_lock()) == (True, True, False)
        end_sessions_of_relays(postgresql_server)
        for store in (first, second):
            with pytest.raises(StoreUnavailable):
                store.counts()
        until(second.take_lock)
        with pytest.raises(StoreLocked, match="another relay has the lock now"):
            first.waiting(1, ())
        second.close()
        until(first.take_lock)
        assert first.waiting(1, ()) == []


def test_a_relay_of_sqlite_whose_lock_was_removed_stands_by(tmp_path: Path, bus: EventBus) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url) as relay:
        add(database, Event(1, "a", None))
        assert taken(inbox, 1) == [1]
        until(lambda: left(database) == [])
        (tmp_path / "shop.db.eventbus_outbox.lock").unlink()
        with database.open() as other:
            assert other.take_lock()
            add(database, Event(2, "a", None))
            until(lambda: relay.status().state == "standing by")
            assert left(database) == [(2, None)]
        assert taken(inbox, 1) == [2]
    database.close()


def test_what_was_published_is_not_published_again_because_it_could_not_be_deleted(
    database: Database, bus: EventBus, postgresql_server: Server
) -> None:
    """The row is locked by somebody else while the server ends the relay's session, again and again."""
    add(database, Event(1, "a", None))
    connection = database.connect()
    connection.execute("SELECT * FROM eventbus_outbox FOR UPDATE")
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url) as relay:
        assert taken(inbox, 1) == [1]
        for _ in range(3):
            end_sessions_of_relays(postgresql_server)
        Outbox(connection).add(Event(2, "a", None))
        connection.commit()
        assert taken(inbox, 1) == [2]
        until(lambda: left(database) == [])
        assert relay.status().published == 2
