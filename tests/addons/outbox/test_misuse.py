"""What goes wrong around an outbox by mistake: tables of one name, forks, many descriptors, rows of any content."""

from __future__ import annotations

import _thread
import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.outbox import Outbox, Relay, open_outbox
from tests.addons.outbox.databases import Database
from tests.addons.outbox.test_relay import add, left, taken
from tests.addons.postgresql import Server
from tests.helpers import until


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Database]:
    made = Database("postgresql", postgresql_url)
    yield made
    made.close()


def in_schema(database: Database, name: str) -> str:
    """The URL of an outbox in a schema that the search path names, as a program with one for each tenant has it."""
    import psycopg

    database.query(f"CREATE SCHEMA {name}")
    url = f"{database.url}&options=-csearch_path%3D{name}"
    with psycopg.connect(url) as connection:
        Outbox.create_table(connection)
    return url


def test_tables_of_one_name_in_two_schemas_have_a_relay_each(postgresql: Database) -> None:
    urls = [in_schema(postgresql, name) for name in ("first", "second")]
    with open_outbox(urls[0]) as first, open_outbox(urls[1]) as second, open_outbox(urls[0]) as third:
        assert (first.take_lock(), second.take_lock(), third.take_lock()) == (True, True, False)


def test_one_table_by_two_names_has_one_relay_and_either_name_wakes_it(postgresql: Database, bus: EventBus) -> None:
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, postgresql.url, poll_s=3_600):
        for id, table in enumerate(("eventbus_outbox", "public.eventbus_outbox") * 2):
            connection = postgresql.connect()
            Outbox(connection, table=table).add(Event(id, "a", None))
            connection.commit()
            assert taken(inbox, 1) == [id]
        with open_outbox(postgresql.url, table="public.eventbus_outbox") as other:
            assert not other.take_lock()


def test_a_file_and_a_link_to_it_have_one_lock(tmp_path: Path) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    (tmp_path / "link.db").symlink_to(tmp_path / "shop.db")
    with database.open() as first, open_outbox(f"sqlite:///{tmp_path / 'link.db'}") as second:
        assert (first.take_lock(), second.take_lock()) == (True, False)
    database.close()


def test_a_program_with_a_thousand_open_files_has_a_relay(database: Database, bus: EventBus) -> None:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_050)]
    try:
        with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url):
            for id in range(2):
                add(database, Event(id, "a", None))
                assert taken(inbox, 1) == [id]
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_a_child_that_stops_the_relay_of_its_parent_does_not_disturb_it(
    database: Database, bus: EventBus, fork: Callable[..., Any]
) -> None:
    with Relay(bus, database.url) as started:

        def leave(say: Any) -> None:
            started.stop()
            say.send("stopped")
            say.recv()

        child = fork(leave)
        assert child.hear() == "stopped"
        began_s = time.perf_counter()
        assert not started._stop.wait(0.05)
        assert time.perf_counter() - began_s >= 0.05  # Woken for ever, it would not wait.
        child.tell()
        assert child.wait() == 0


def test_a_relay_that_is_never_started_keeps_no_descriptor(database: Database, bus: EventBus) -> None:
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Relay(bus, database.url)
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_ctrl_c_while_it_begins_leaves_no_thread(
    postgresql: Database, bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **how: Any) -> Any:
        _thread.interrupt_main()
        return open_outbox(*arguments, **how)

    monkeypatch.setattr("eventbus_mp.addons.outbox.relay.open_outbox", interrupted)
    started = Relay(bus, postgresql.url)
    with pytest.raises(KeyboardInterrupt), started:
        started.wait()  # It may have begun before the signal came.
    assert started.wait(60)
    assert started.status().state == "stopped"


def test_headers_that_no_json_reader_can_take(database: Database, bus: EventBus) -> None:
    add(database, Event(1, "a", None), Event(2, "a", None))
    database.query(f"UPDATE eventbus_outbox SET headers = '{'[' * 100_000}' WHERE position = 1")
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url):
        assert taken(inbox, 1) == [2]
        until(lambda: len(left(database)) == 1)
        ((id, reason),) = left(database)
    assert (id, "are not JSON" in reason) == (1, True)


ODD = ["NULL", "''", "0", "-1", "9223372036854775807", "1e308", "x'00ff'", "'x'", "'null'", "'[]'", "'{\"a\": 1}'"]
"""What SQLite takes in any column that may be NULL."""


@pytest.mark.parametrize("seed", [random.randrange(1 << 30)])
def test_rows_of_any_content_do_not_stop_the_others(tmp_path: Path, bus: EventBus, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    connection = database.connect()
    outbox = Outbox(connection)
    columns = ["topic", "event_id", "transaction_id", "initialized_at", "occurred_at", "source", "ttl"]
    columns += ["headers", "data", "buffers", "format"]
    for _ in range(300):
        outbox.add(Event("odd", "odd", None))
        column, value = chance.choice(columns), chance.choice(ODD)
        position = "(SELECT max(position) FROM eventbus_outbox)"
        connection.execute(f"UPDATE OR IGNORE eventbus_outbox SET {column} = {value} WHERE position = {position}")
    outbox.add(Event("last", "a", None))
    connection.commit()
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url, allow_drop=True):
        assert taken(inbox, 1) == ["last"]
        until(lambda: not database.query("SELECT 1 FROM eventbus_outbox WHERE done_ns IS NULL"))
    database.close()


def test_a_text_that_is_not_unicode_in_a_database_that_holds_any_bytes(
    postgresql_server: Server, bus: EventBus
) -> None:
    postgresql_server.sql("CREATE DATABASE any_bytes ENCODING 'SQL_ASCII' TEMPLATE template0")
    database = Database("postgresql", postgresql_server.url("any_bytes"))
    add(database, *(Event(id, "a", None, source="☃") for id in ("topic", "source", "last", "☃")))
    for name in ("topic", "source"):
        database.query(f"UPDATE eventbus_outbox SET {name} = E'\\351' WHERE event_id = '{name}'")
    with bus.inbox("s", [""]) as inbox, Relay(bus, database.url) as started:
        assert taken(inbox, 2) == ["last", "☃"]
        until(lambda: started.status().refused == 2)
        assert {reason for _, reason in left(database)} != {None}
    database.close()
    postgresql_server.sql("DROP DATABASE any_bytes WITH (FORCE)")
