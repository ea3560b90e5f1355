"""Databases that have no outbox or are not there, and arguments that are not valid: said at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, UsageError
from eventbus_mp.addons.journal import StoreUnavailable, StoreUnusable
from eventbus_mp.addons.outbox import Outbox, Relay, open_outbox
from tests.addons.outbox.databases import Database


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("mysql://x", UsageError),
        ("sqlite:///", UsageError),
        ("sqlite:////nowhere/at/all.db", StoreUnavailable),
        ("postgresql://nobody@/none?host=/nowhere", StoreUnavailable),
        ("postgresql://x?what=", UsageError),
    ],
)
def test_no_such_database(bus: EventBus, url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Relay(bus, url).start()


def test_no_table_in_the_database(database: Database, bus: EventBus) -> None:
    with pytest.raises(StoreUnusable, match=r"has no table other; make it with Outbox.create_table"):
        Relay(bus, database.url, table="other").start()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("this is not a database, " * 100)
    with pytest.raises(StoreUnusable, match="integrity_check"):
        open_outbox(f"sqlite:///{path}")


@pytest.mark.parametrize("how", [{"batch": 0}, {"batch": True}, {"keep": "soon"}, {"keep": ""}])
def test_wrong_arguments(how: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Relay(EventBus("test"), "sqlite:///x", **how)


@pytest.mark.parametrize("poll_s", [0, -1, 4_000, "x"])
def test_wrong_intervals(poll_s: Any) -> None:
    with pytest.raises(UsageError, match="not a number above 0"):
        open_outbox("sqlite:///x", poll_s=poll_s)


def test_a_password_is_in_no_text() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        open_outbox("postgresql+psycopg://me:secret@/none?host=/nowhere&password=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError) as refused:
        open_outbox("mysql://me:secret@host/name")
    assert "secret" not in str(refused.value)
    assert "secret" not in Relay(EventBus("test"), "postgresql://me:secret@host/name").url


def test_one_that_has_ended_by_itself_is_started_by_with(
    make_bus: Callable[..., EventBus], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(topics=["a"])
    relay = Relay(bus, database.url).start()
    with caplog.at_level(logging.CRITICAL, "eventbus_mp.outbox"):
        bus.close()
        connection = database.connect()  # It notices that when it has something to publish.
        Outbox(connection).add(Event("1", "a", None))
        connection.commit()
        with pytest.raises(BusClosed):
            relay.wait(60)
    assert relay.status().state == "failed"
    with pytest.raises(BusClosed), relay:
        pass


def test_one_that_has_published_all_is_not_started_again_by_with(database: Database, bus: EventBus) -> None:
    connection = database.connect()
    with bus.inbox("s", ["a"]):
        Outbox(connection).add(Event("1", "a", None))
        connection.commit()
        relay = Relay(bus, database.url, once=True).start()
        assert relay.wait(60)
        with relay:
            assert relay.status().published == 1
