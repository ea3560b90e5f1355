"""Stores and buses that go away while a journal runs, for real: the disk is full, a file is gone, a bus is killed."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, Selection, open_store
from tests.addons.journal.away import Away, Said
from tests.addons.journal.test_journal import stored_ids

PAYLOAD = bytes(2_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


def test_the_disk_is_full_and_has_room_again(
    bus: EventBus, path: Path, run_dir: Path, fork: Callable[..., Any]
) -> None:
    url = f"sqlite:///{path}"

    def journal(say: Any) -> None:
        logging.getLogger("eventbus_mp.journal").addHandler(Said(say.send))
        with EventBus("test", run_dir=str(run_dir)) as mine, Journal(mine, url, batch_within_s=0.005):
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # Of each file: as a disk that is full.
            say.send("limited")
            say.recv()

    child = fork(journal)
    said = ""
    while said != "limited":
        said = child.hear()
    bus.notify_many(Event(number, "a", PAYLOAD) for number in range(2_000))
    assert "events cannot be stored, and are tried again" in child.hear(60)
    stored = len(stored_ids(url))
    assert stored < 2_000
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE))
    bus.drain(timeout_s=60)
    assert stored_ids(url) == list(range(2_000))
    child.tell()
    assert child.wait() == 0


def test_events_wait_while_the_store_is_away(bus: EventBus, path: Path, heard: Callable[[str], None]) -> None:
    url = f"sqlite:///{path}"
    with Journal(bus, url, batch_within_s=0.005) as journal:
        bus.notify(Event(0, "a", None))
        bus.drain()
        away = Away(path)
        bus.notify_many(Event(number, "a", None) for number in range(1, 5_000))
        heard("events cannot be stored")
        (subscriber,) = bus.snapshot().subscribers
        assert subscriber.completed == 1
        assert subscriber.queued + subscriber.in_flight == 4_999
        away.back()
        heard("is back after")
        bus.drain(timeout_s=60)
        assert stored_ids(url) == list(range(5_000))
        assert journal.status().stored == 5_000


def test_a_journal_is_stopped_while_the_store_is_away(bus: EventBus, path: Path, heard: Callable[[str], None]) -> None:
    url = f"sqlite:///{path}"
    with Journal(bus, url, batch_within_s=0.005):
        away = Away(path)
        bus.notify_many(Event(number, "a", None) for number in range(100))
        heard("events cannot be stored")
    away.back()
    with Journal(bus, url):
        bus.drain(timeout_s=60)
    assert stored_ids(url) == list(range(100))


def test_events_go_to_the_spool_while_the_store_is_away(
    bus: EventBus, path: Path, tmp_path: Path, heard: Callable[[str], None]
) -> None:
    url, spool = f"sqlite:///{path}", f"sqlite:///{tmp_path / 'spool.db'}"
    with Journal(bus, url, batch_within_s=0.005, on_outage="spool", spool=spool):
        bus.notify(Event(0, "a", None))
        bus.drain()
        away = Away(path)
        bus.notify_many(Event(number, "ab"[number % 2], None) for number in range(1, 6_000))
        bus.notify(Event("bad", "a", None, occurred_at=1 << 70))
        bus.drain(timeout_s=60)  # Nothing waits in the bus.
        heard("events go to the spool")
        assert len(stored_ids(spool)) == 5_999
        away.back()
        heard("has what was in the spool")
        bus.notify(Event(6_000, "a", None))
        bus.drain(timeout_s=60)
    assert stored_ids(url) == list(range(6_001))
    assert stored_ids(spool) == []
    with open_store(url) as store:
        assert [one.id for one in store.rejected(10)] == ["bad"]
        (run,) = store.runs()
        assert run.stored == 6_001


def test_a_spool_that_was_left_is_shipped_by_the_next_journal(
    bus: EventBus, path: Path, tmp_path: Path, heard: Callable[[str], None]
) -> None:
    url, spool = f"sqlite:///{path}", f"sqlite:///{tmp_path / 'spool.db'}"
    settings = {"batch_within_s": 0.005, "on_outage": "spool", "spool": spool}
    with Journal(bus, url, **settings):  # type: ignore[arg-type]
        away = Away(path)
        bus.notify_many(Event(number, "a", None) for number in range(100))
        bus.drain(timeout_s=60)
    assert stored_ids(spool) == list(range(100))
    away.back()
    with Journal(bus, url, **settings):  # type: ignore[arg-type]
        bus.notify(Event(100, "a", None))
        heard("has what was in the spool")
    assert stored_ids(url) == list(range(101))


def test_a_bus_that_is_killed_comes_back_with_its_journal(
    make_bus: Callable[..., EventBus], path: Path, kill_bus: Callable[[], None]
) -> None:
    url = f"sqlite:///{path}"
    bus = make_bus(topics=["a"])
    with Journal(bus, url, batch_within_s=0.005):
        bus.notify(Event(0, "a", None))
        bus.drain()
        kill_bus()
        bus.topics()
        while not bus.subscribers("a"):
            bus.drain()
        bus.notify(Event(1, "a", None))
        bus.drain(timeout_s=60)
        assert stored_ids(url) == [0, 1]
    with open_store(url) as store:
        first, second = store.runs()
    assert first.incarnation != second.incarnation
    assert (first.stored, second.stored, second.notified_first) == (1, 1, {"a": 0})


def test_a_bus_that_was_shut_down_is_waited_for(make_bus: Callable[..., EventBus], path: Path) -> None:
    url = f"sqlite:///{path}"
    bus, other = make_bus(topics=["a"]), make_bus(topics=["a"])
    with Journal(bus, url, batch_within_s=0.005) as journal:
        other.notify(Event(0, "a", None))
        other.drain()
        other.shutdown()
        again = make_bus(topics=["a"])
        while not again.subscribers("a"):
            again.drain()
        again.notify(Event(1, "a", None))
        again.drain(timeout_s=60)
        assert journal.status().state == "writing"
    assert stored_ids(url) == [0, 1]


def test_a_file_that_was_replaced_has_a_run_of_its_own(
    bus: EventBus, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_mp.addons.journal.run_notes.NOTE_S", 0.0)
    url = f"sqlite:///{path}"
    with Journal(bus, url, batch_within_s=0.005):
        for number in range(3):
            bus.notify(Event(number, "a", None))
            bus.drain(timeout_s=60)
            if number == 0:
                path.unlink()
    assert stored_ids(url) == [1, 2]
    with open_store(url) as store:
        assert [run.ended_ns is not None for run in store.runs()] == [True]


def test_stopped_and_started_under_load_nothing_is_lost_or_twice(
    bus: EventBus, path: Path, run_dir: Path, fork: Callable[..., Any]
) -> None:
    url = f"sqlite:///{path}"

    def produce(say: Any) -> None:
        with EventBus("test", run_dir=str(run_dir)) as mine:
            for begin in range(0, 20_000, 100):
                mine.notify_many(Event(number, "a", None) for number in range(begin, begin + 100))

    Journal(bus, url).start().stop()
    child = fork(produce)
    stored = 0
    while stored < 20_000:
        with Journal(bus, url, batch_events=500) as journal:
            while not journal.status().stored and not child_has_ended(bus):
                bus.topics()
        stored += journal.status().stored
        with open_store(url) as store:
            assert store.count(Selection()) == stored
    assert child.wait() == 0
    assert stored_ids(url) == list(range(20_000))


def child_has_ended(bus: EventBus) -> bool:
    """Whether nothing waits any more."""
    return bus.snapshot().events.unsettled == 0
