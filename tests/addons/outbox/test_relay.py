"""A relay publishes what was committed, all of it, and deletes it when the bus has it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, Inbox, UsageError
from eventbus_mp.addons.journal import StoreLocked
from eventbus_mp.addons.outbox import Outbox, Relay
from eventbus_mp.addons.outbox.store import LOOK_BYTES
from tests.addons.outbox.databases import Database
from tests.helpers import until

StartRelay = Callable[..., Relay]


def add(database: Database, *events: Event) -> None:
    """In a transaction of its own."""
    connection = database.connect()
    Outbox(connection).add_many(events)
    connection.commit()


def taken(inbox: Inbox, count: int) -> list[Any]:
    """The ids of the next events."""
    found: list[Any] = []
    while len(found) < count:
        shadows = inbox.get_many(count - len(found), 20)
        assert shadows, f"only {found} came"
        inbox.complete_many(shadows)
        found += [shadow.id for shadow in shadows]
    return found


def left(database: Database) -> list[Any]:
    """(id, reason) of what is in the table."""
    with database.open() as store:
        items = [item for state in ("waiting", "refused", "published") for item in store.items(state, after=0, limit=9)]
    return [(item.row.id, item.reason) for item in items]


def test_what_is_committed_is_published_and_deleted(database: Database, bus: EventBus, relay: StartRelay) -> None:
    add(database, Event("before", "a", [1], source="x"))
    with bus.inbox("s", ["a"]) as inbox:
        relay()
        ((shadow, event),) = inbox.events(1, 20)
        assert (event.id, event.data, event.source) == ("before", [1], "x")
        inbox.complete(shadow)
        connection = database.connect()
        for id in range(5):  # One after the other: each COMMIT wakes the relay.
            Outbox(connection).add(Event(id, "a", None))
            connection.commit()
            assert taken(inbox, 1) == [id]
        until(lambda: left(database) == [])


def test_what_is_rolled_back_is_not_published(database: Database, bus: EventBus, relay: StartRelay) -> None:
    with bus.inbox("s", ["a"]) as inbox:
        relay()
        connection = database.connect()
        for id in range(10):
            database.place_order(connection, id)
            Outbox(connection).add(Event(id, "a", None))
            if id % 3:
                connection.commit()
            else:
                connection.rollback()
        assert taken(inbox, 6) == database.orders() == [1, 2, 4, 5, 7, 8]


def test_the_events_of_a_transaction_come_in_their_order(database: Database, bus: EventBus, relay: StartRelay) -> None:
    with bus.inbox("s", [""]) as inbox:
        relay(batch=7)
        for first in range(0, 300, 100):
            add(database, *(Event(id, "ab"[id % 2], None) for id in range(first, first + 100)))
        assert taken(inbox, 300) == list(range(300))


def test_a_lower_position_that_is_committed_later_is_published(
    postgresql_url: str, bus: EventBus, make_bus: Any
) -> None:
    """PostgreSQL gives positions out before COMMIT, so a relay that only looked ahead would miss them."""
    database = Database("postgresql", postgresql_url)
    early, late = database.connect(), database.connect()
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url):
        Outbox(early).add(Event("lower", "a", None))
        Outbox(late).add(Event("higher", "a", None))
        late.commit()
        assert taken(inbox, 1) == ["higher"]
        early.commit()
        assert taken(inbox, 1) == ["lower"]
    database.close()


def test_a_relay_looks_by_itself_if_nothing_wakes_it(database: Database, bus: EventBus, relay: StartRelay) -> None:
    with bus.inbox("s", ["a"]) as inbox:
        relay(poll_s=0.05)
        connection = database.connect()
        Outbox(connection, wake=False).add_many([Event(1, "a", None)])
        connection.commit()
        assert taken(inbox, 1) == [1]


def test_a_look_reads_no_more_bytes_than_it_may_and_one_event_at_least(database: Database) -> None:
    add(database, Event("tiny", "a", None), *(Event(id, "a", bytes(LOOK_BYTES * 2 // 5)) for id in range(4)))
    add(database, Event("huge", "a", bytes(2 * LOOK_BYTES)), Event("last", "a", None))
    with database.open() as store:
        looks = []
        while entries := store.waiting(500, ()):
            looks.append([entry.row.id for entry in entries])
            store.finish([entry.position for entry in entries], [], 0, keep=False)
    assert looks == [["tiny", 0, 1, 2], [3, "huge"], ["last"]]


def test_large_events_and_many(database: Database, bus: EventBus, relay: StartRelay) -> None:
    add(database, *(Event(id, "a", memoryview(bytes([id]) * 300_000)) for id in range(50)))
    with bus.inbox("s", ["a"]) as inbox:
        relay()
        for id in range(50):
            ((shadow, event),) = inbox.events(1, 20)
            assert (event.id, bytes(event.data)) == (id, bytes([id]) * 300_000)
            del event
            inbox.complete(shadow)
        until(lambda: left(database) == [])


# --- what has to wait ---


def test_events_wait_for_a_subscriber_and_other_topics_go_on(
    database: Database, bus: EventBus, relay: StartRelay, caplog: pytest.LogCaptureFixture
) -> None:
    with bus.inbox("s", ["a"]) as inbox:
        started = relay()
        add(database, Event(1, "b", None), Event(2, "a", None), Event(3, "new", None), Event(4, "a", None))
        assert taken(inbox, 2) == [2, 4]
        until(lambda: started.status().held == ("b", "new"))
        until(lambda: left(database) == [(1, None), (3, None)])
        with bus.inbox("later", ["b"]) as other:
            assert taken(other, 1) == [1]
        with bus.inbox("all", [""]) as other:
            assert taken(other, 1) == [3]
    assert caplog.messages.count("nobody is subscribed to topic 'b' of bus 'test'; its events wait in the outbox") == 1
    assert "its events are dropped" not in caplog.text


def test_events_that_nobody_wants_may_be_dropped(database: Database, bus: EventBus, relay: StartRelay) -> None:
    add(database, Event(1, "b", None), Event(2, "b", None))
    started = relay(allow_drop=True)
    until(lambda: started.status().dropped == 2)
    until(lambda: left(database) == [])


def test_events_wait_for_who_is_required(database: Database, make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a", "b"], require=["billing"])
    add(database, *(Event(id, "ab"[id % 2], None) for id in range(6)))
    with bus.inbox("other", [""]), Relay(bus, database.url) as started:
        until(lambda: started.status().held == ("a", "b"))
        with bus.inbox("billing", [""]) as inbox:
            assert sorted(taken(inbox, 6)) == list(range(6))


def test_events_wait_while_the_bus_is_full(database: Database, make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=8 << 20)
    add(database, *(Event(id, "a", bytes(100_000)) for id in range(200)))
    with bus.inbox("s", ["a"], credit=1) as inbox, Relay(bus, database.url) as started:
        before = until(lambda: started.status().published > 10 and started.status().published)
        assert before < 200
        assert taken(inbox, 200) == list(range(200))
        assert until(lambda: started.status().published == 200)


def test_events_wait_for_a_topic_of_a_strict_bus(database: Database, make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus(strict=True)
    add(database, Event(1, "a", None))
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url) as started:
        assert until(lambda: started.status().held) == ("a",)
        bus.register_topic("a")
        assert taken(inbox, 1) == [1]


def test_the_bus_dies_and_another_one_takes_what_comes(
    database: Database, bus: EventBus, relay: StartRelay, kill_bus: Callable[[], None]
) -> None:
    with bus.inbox("s", ["a"]) as inbox:
        started = relay()
        add(database, Event(1, "a", None))
        assert taken(inbox, 1) == [1]
        until(lambda: started.status().published == 1)
        kill_bus()
        add(database, Event(2, "a", None))
        assert taken(inbox, 1) == [2]


def test_the_bus_is_shut_down_and_started_again(
    database: Database, bus: EventBus, relay: StartRelay, make_bus: Callable[..., EventBus]
) -> None:
    started, standby = relay(), relay(to=make_bus())
    bus.shutdown()
    add(database, Event(1, "a", None))
    started.stop()
    until(lambda: standby.status().state == "publishing")
    with make_bus(topics=["a"]).inbox("s", ["a"]) as inbox:
        assert taken(inbox, 1) == [1]


# --- what cannot be published ---


def test_a_row_that_cannot_be_published_is_put_aside_and_the_rest_goes_on(
    database: Database, make_bus: Callable[..., EventBus]
) -> None:
    bus = make_bus(topics=["a"], event_bytes_max=10_000)
    add(
        database,
        Event(1, "a", None),
        Event("large", "a", bytes(20_000)),
        Event(2, "a", None),
        Event("x" * 9, "a", None),
        Event("format", "a", None),
        Event("headers", "a", None),
        Event(3, "a", None),
    )
    database.query("UPDATE eventbus_outbox SET topic = 'no\ntopic' WHERE position = 4")
    database.query("UPDATE eventbus_outbox SET format = 99 WHERE position = 5")
    database.query("UPDATE eventbus_outbox SET headers = '[' WHERE position = 6")
    with bus.inbox("s", [""]) as inbox, Relay(bus, database.url) as started:
        assert taken(inbox, 3) == [1, 2, 3]
        until(lambda: started.status().refused == 4)
        reasons = dict(left(database))
        assert list(reasons) == ["large", "x" * 9, "format", "headers"]
        assert reasons["large"].startswith("EventTooLarge: event 'large' of topic 'a' has 20")
        assert reasons["x" * 9].startswith("InvalidTopic: ")
        assert "format 99" in reasons["format"]
        assert "headers='[' are not JSON" in reasons["headers"]
        database.query("UPDATE eventbus_outbox SET headers = NULL WHERE position = 6")
        with database.open() as store:
            assert (store.retry([6]), store.discard([2, 6]), store.retry(None)) == (1, 1, 2)
        assert taken(inbox, 1) == ["headers"]
        until(lambda: started.status().refused == 6)


def test_a_row_that_somebody_made_by_hand(database: Database, bus: EventBus, relay: StartRelay) -> None:
    database.query(
        "INSERT INTO eventbus_outbox (topic, event_id, data, format, recorded_ns) VALUES ('a', '', '', 2, 0)"
    )
    add(database, Event(1, "a", None))
    with bus.inbox("s", ["a"]) as inbox:
        started = relay()
        assert taken(inbox, 1) == [1]
        assert until(lambda: started.status().refused) == 1


def test_a_text_that_is_not_unicode(tmp_path: Path, bus: EventBus) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    add(database, *(Event(id, "a", None) for id in range(1, 5)))
    for name, position in (("topic", 1), ("event_id", 2), ("source", 3)):
        database.query(f"UPDATE eventbus_outbox SET {name} = CAST(x'ff' AS TEXT) WHERE position = {position}")
    with bus.inbox("s", [""]) as inbox, Relay(bus, database.url) as started:
        assert taken(inbox, 1) == [4]
        until(lambda: started.status().refused == 3)
    database.close()


# --- once, kept, standing by ---


def test_once_publishes_what_is_there(database: Database, bus: EventBus) -> None:
    add(database, *(Event(id, "a", None) for id in range(1_000)), Event(0, "b", None))
    with bus.inbox("s", ["a"]) as inbox:
        relay = Relay(bus, database.url, once=True).start()
        assert relay.wait(60)
        relay.stop()
        assert taken(inbox, 1_000) == list(range(1_000))
    assert (relay.status().published, relay.status().held, left(database)) == (1_000, ("b",), [(0, None)])


def test_published_events_are_kept_for_a_while(database: Database, bus: EventBus) -> None:
    add(database, Event(1, "a", None))
    with bus.inbox("s", ["a"]) as inbox:
        with Relay(bus, database.url, once=True, keep="1h") as relay:
            relay.wait(60)
        assert taken(inbox, 1) == [1]
        with database.open() as store:
            assert [item.row.id for item in store.items("published", after=0, limit=9)] == [1]
            assert store.counts()["a"].published == 1
        with Relay(bus, database.url, once=True, keep="0s") as relay:
            relay.wait(60)
        assert left(database) == []


def test_one_relay_publishes_and_another_one_stands_by(
    database: Database, bus: EventBus, relay: StartRelay, make_bus: Callable[..., EventBus]
) -> None:
    first = relay()
    second = relay(to=make_bus())
    assert (first.status().state, second.status().state) == ("publishing", "standing by")
    with pytest.raises(StoreLocked, match="another relay publishes"):
        relay(once=True)
    with bus.inbox("s", ["a"]) as inbox:
        add(database, Event(1, "a", None))
        assert taken(inbox, 1) == [1]
        first.stop()
        until(lambda: second.status().state == "publishing")
        add(database, Event(2, "a", None))
        assert taken(inbox, 1) == [2]


def test_a_stopped_relay_can_be_started_again(database: Database, bus: EventBus) -> None:
    relay = Relay(bus, database.url)
    for _ in range(2):
        with relay:
            with pytest.raises(UsageError, match="is running"):
                relay.start()
            assert relay.status().state == "publishing"
        assert relay.status().state == "stopped"
        relay.ask_to_stop()
        relay.stop()


# --- outages ---


def test_a_locked_sqlite_file(tmp_path: Path, bus: EventBus) -> None:
    """A user's long transaction keeps the relay from deleting; it does not publish again meanwhile."""
    database = Database("sqlite", f"sqlite:///{tmp_path / 'shop.db'}")
    database.query("PRAGMA journal_mode = WAL")
    add(database, Event(1, "a", None))
    connection = database.connect()
    connection.execute("BEGIN IMMEDIATE")
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, database.url):
        assert taken(inbox, 1) == [1]
        Outbox(connection).add(Event(2, "a", None))
        connection.commit()
        assert taken(inbox, 1) == [2]
        until(lambda: left(database) == [])
    database.close()


def test_a_sqlite_file_that_is_replaced(tmp_path: Path, bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "eventbus_mp.outbox")
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    first = Database("sqlite", url)
    with bus.inbox("s", ["a"]) as inbox, Relay(bus, url):
        first.close()
        os.rename(tmp_path / "shop.db", tmp_path / "old.db")
        until(lambda: "tries again: there is no database" in caplog.text)
        second = Database("sqlite", url)
        add(second, Event(1, "a", None))
        assert taken(inbox, 1) == [1]
        until(lambda: "goes on after" in caplog.text)
        second.close()
