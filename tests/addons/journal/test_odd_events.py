"""Events at the edge of what a bus takes, clocks that jump and damaged files: through a real bus, into each store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, EventBusError
from eventbus_mp.addons.journal import Journal, Selection, event_of, open_store
from eventbus_mp.addons.journal.row import INTEGERS, Entry
from eventbus_mp.addons.journal.store import StoreUnusable
from tests.addons.journal.away import Away
from tests.addons.journal.rows import SECOND_NS, rows

ALL = Selection()
HOUR_NS = 3_600 * SECOND_NS


def stored(bus: EventBus, url: str, events: list[Event]) -> list[Entry]:
    """What a journal makes of these events."""
    with Journal(bus, url, batch_within_s=0.005):
        bus.notify_many(events)
        bus.drain(timeout_s=60)
    with open_store(url) as store:
        return store.page(ALL, 100)


ODD = [
    Event("x" * 1_024, "a", "the longest id"),
    Event("é" * 512, "a", "the longest in bytes"),
    Event(INTEGERS[0], "a", INTEGERS[-1] + 1),
    Event(INTEGERS[-1], "a", [1 << 64, -(1 << 200)]),
    Event("nul in the data", "a", {"\0": "\0"}, headers={"a": "\0"}),
    Event("\u202e\x1b[31m\n", "a", None),
    Event(" ", "a", "a blank"),
    Event("times", "a", None, initialized_at=INTEGERS[0], occurred_at=INTEGERS[-1], ttl=INTEGERS[-1]),
]


def test_odd_events_come_back_as_they_were(bus: EventBus, store_url: str) -> None:
    found = [event_of(entry.row) for entry in stored(bus, store_url, ODD)]
    assert found == ODD
    assert [dict(event.headers or {}) for event in found] == [dict(event.headers or {}) for event in ODD]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Event("\ud800", "a", None),
        lambda: Event("1", "a", {"\ud800": 1}),
        lambda: Event("1", "a", None, source="\udfff"),
        lambda: Event("1", "a", None, headers={"a": "\udfff"}),
    ],
)
def test_half_a_character_does_not_get_as_far_as_a_journal(bus: EventBus, tmp_path: Path, make: Any) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with Journal(bus, url, batch_within_s=0.005):
        with pytest.raises(EventBusError, match="not valid unicode"):
            bus.notify(make())
        bus.notify(Event("2", "a", None))
        bus.drain(timeout_s=60)
    with open_store(url) as store:
        assert [entry.row.id for entry in store.page(ALL, 10)] == ["2"]


def test_a_nul_in_what_is_a_column(bus: EventBus, store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite holds it. PostgreSQL does not: the event is set aside, and the ones beside it are stored."""
    caplog.set_level(logging.CRITICAL, "eventbus_mp.journal")
    given = [Event("1", "a", 1), Event("nul\0", "a", 2), Event("3", "a", 3, source="\0"), Event("4", "a", 4)]
    found = [entry.row.id for entry in stored(bus, store_url, given)]
    with open_store(store_url) as store:
        rejected = store.rejected(10)
    if store_url.startswith("sqlite"):
        assert (found, rejected) == (["1", "nul\0", "3", "4"], [])
    else:
        assert found == ["1", "4"]
        assert len(rejected) == 2
        (subscriber,) = bus.snapshot().subscribers
        assert subscriber.skipped == 2
        assert bytes(rejected[0].data or b"") == b"\2"


def test_a_clock_that_is_set_back_while_a_journal_writes(
    bus: EventBus, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    jump_ns = 0
    monkeypatch.setattr("eventbus_mp.addons.journal.writer.time.time_ns", lambda: now_ns + jump_ns)
    with Journal(bus, store_url, batch_within_s=0.005, keep="1h"):
        for number, hours in enumerate([0, -10, 1, -1_000]):
            jump_ns = hours * HOUR_NS
            bus.notify(Event(number, "a", None))
            bus.drain(timeout_s=60)
    with open_store(store_url) as store:
        entries = store.page(ALL, 10)
        assert [entry.row.id for entry in entries] == [0, 1, 2, 3]
        assert [(entry.row.recorded_ns - now_ns) // HOUR_NS for entry in entries] == [0, 0, 1, 1]
        assert [entry.row.id for entry in store.page(Selection(since_ns=now_ns + 1), 10)] == [2, 3]


def test_another_time_unit_in_the_next_run(make_bus: Callable[..., EventBus], store_url: str) -> None:
    """What is stored keeps the unit of its bus, which its run has; when it expires is in nanoseconds."""
    for unit, factor in (("second", 1), ("nanosecond", SECOND_NS)):
        bus = make_bus(topics=["a"], time_unit=unit)
        stored(bus, store_url, [Event(unit, "a", None, occurred_at=4 * 10**9 * factor, ttl=10**9 * factor)])
        bus.shutdown()
    with open_store(store_url) as store:
        assert [run.time_unit for run in store.runs()] == ["second", "nanosecond"]
        assert [entry.row.expires_ns for entry in store.page(ALL, 10)] == [5 * 10**9 * SECOND_NS] * 2


def test_a_full_bus_holds_its_producers_until_the_store_is_back(
    make_bus: Callable[..., EventBus], tmp_path: Path, heard: Callable[[str], None]
) -> None:
    bus = make_bus(topics=["a"], memory_bytes_max=4 << 20, notify_timeout_s=0.2)
    path = tmp_path / "test.db"
    with Journal(bus, f"sqlite:///{path}", batch_within_s=0.005):
        away = Away(path)
        with pytest.raises(BusFull, match="journal") as full:
            bus.notify_many(Event(number, "a", bytes(10_000)) for number in range(10_000))
        heard("events cannot be stored")
        count = len(full.value.published)
        assert count > 100
        away.back()
        heard("is back after")
        bus.drain(timeout_s=60)
        bus.notify(Event(count, "a", bytes(10_000)))
        bus.drain(timeout_s=60)
    with open_store(f"sqlite:///{path}") as store:
        assert [entry.row.id for entry in store.page(ALL, 10_000)] == list(range(count + 1))


def test_a_damaged_file_is_refused_and_left_as_it_is(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with open_store(f"sqlite:///{path}", writes=True) as store:
        assert store.take_lock()
        store.append(rows(2_000))
    whole = path.read_bytes()
    for damaged in (b"\xff" * 100 + whole[100:], whole[:4_096] + b"\xff" * (len(whole) - 4_096), whole[:5_000]):
        path.write_bytes(damaged)
        with pytest.raises(StoreUnusable, match="integrity_check"):
            Journal(bus, f"sqlite:///{path}").start()
        assert path.read_bytes() == damaged
    assert bus.subscribers() == []


def test_a_file_that_is_damaged_under_a_journal(bus: EventBus, tmp_path: Path, heard: Callable[[str], None]) -> None:
    """The journal waits for a whole one, which somebody restores."""
    path = tmp_path / "test.db"
    url = f"sqlite:///{path}"
    with Journal(bus, url, batch_within_s=0.005):
        bus.notify_many(Event(number, "a", None) for number in range(100))
        bus.drain(timeout_s=60)
        path.rename(tmp_path / "aside")
        path.write_bytes(b"\xff" * 8_192)
        bus.notify_many(Event(number, "a", None) for number in range(100, 200))
        heard("`PRAGMA integrity_check` says where")
        (tmp_path / "aside").rename(path)
        heard("is back after")
        bus.drain(timeout_s=60)
    with open_store(url) as store:
        assert [entry.row.id for entry in store.page(ALL, 1_000)] == list(range(200))
