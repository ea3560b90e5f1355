"""A journal that is killed at each step of its loop: no event is lost, and none is stored twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, Selection, open_store
from eventbus_mp.addons.journal.sqlite.store import SqliteStore
from tests.addons.journal.mortal import (
    KILLED,
    POINTS,
    check_store,
    happens_once,
    mortal_bus,
    publish,
    write_until_killed,
)

EVENTS = 300


@pytest.mark.parametrize(
    ("store_url", "point"),
    [(store, point) for store, points in POINTS.items() for point in points],
    indirect=["store_url"],
)
def test_a_journal_is_killed(
    run_dir: Path, store_url: str, fork: Callable[..., Any], make_bus: Callable[..., Any], point: str
) -> None:
    url = store_url
    make_bus(crashes_max=1_000, topics=["a", "b"]).topics()
    for kill in range(2):
        nth = 1 if happens_once(point) else 1 + kill
        child = fork(lambda say, nth=nth: write_until_killed(run_dir, url, point, nth))
        if not happens_once(point):
            _await_subscriber(run_dir)
            publish(run_dir, kill * EVENTS, EVENTS)
        assert child.wait() == KILLED
        if happens_once(point):
            publish(run_dir, kill * EVENTS, EVENTS)
    with mortal_bus(run_dir) as bus, Journal(bus, url, batch_within_s=0.005):
        bus.drain(timeout_s=120)
    check_store(url, 2 * EVENTS)


def _write_until_poisoned(run_dir: Path, url: str, poison: int) -> None:
    """Be the journal until this process stores the event of that id."""
    insert = SqliteStore._insert

    def crash(store: SqliteStore, db: Any, rows: Any) -> int:
        if any(row.id == poison for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return insert(store, db, rows)

    SqliteStore._insert = crash  # type: ignore[method-assign, assignment]
    with EventBus("test", run_dir=str(run_dir)) as bus:
        Journal(bus, url, batch_within_s=0.005).start().wait()


@pytest.fixture
def subscribed(make_bus: Callable[..., EventBus], url: str) -> EventBus:
    """A bus whose journal was there, and is away."""
    bus: EventBus = make_bus(topics=["a"])
    Journal(bus, url).start().stop()
    return bus


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


def test_an_event_that_crashes_every_writer_is_rejected_and_takes_no_other_along(
    run_dir: Path, fork: Callable[..., Any], subscribed: EventBus, url: str
) -> None:
    subscribed.notify_many(Event(number, "a", None) for number in range(100))
    for _ in range(subscribed.config.crashes_max):
        assert fork(lambda say: _write_until_poisoned(run_dir, url, 60)).wait() == KILLED
    with Journal(subscribed, url):
        subscribed.drain(timeout_s=120)
    with open_store(url) as store:
        assert [entry.row.id for entry in store.page(Selection(), 200)] == [*range(60), *range(61, 100)]
        (rejected,) = store.rejected(10)
    assert (rejected.id, rejected.reason) == (60, "the journal's process crashed 3 times with it")


def test_an_event_that_is_stored_at_its_last_attempt_is_not_rejected(
    run_dir: Path, fork: Callable[..., Any], subscribed: EventBus, url: str
) -> None:
    subscribed.notify_many(Event(number, "a", None) for number in range(100))
    for _ in range(subscribed.config.crashes_max - 1):
        assert fork(lambda say: _write_until_poisoned(run_dir, url, 0)).wait() == KILLED
    with Journal(subscribed, url):
        subscribed.drain(timeout_s=120)
    with open_store(url) as store:
        assert [entry.row.id for entry in store.page(Selection(), 200)] == list(range(100))
        assert store.rejected(10) == []


def test_what_a_dead_writer_held_is_stored_together(
    run_dir: Path, fork: Callable[..., Any], subscribed: EventBus, url: str
) -> None:
    subscribed.notify_many(Event(number, "a", None) for number in range(100))
    assert fork(lambda say: _write_until_poisoned(run_dir, url, 99)).wait() == KILLED
    with Journal(subscribed, url, batch_events=100, batch_within_s=120.0) as journal:
        subscribed.drain(timeout_s=120)
    assert (journal.status().stored, journal.status().commits) == (100, 1)


def _await_subscriber(run_dir: Path) -> None:
    """Until the journal is subscribed, which a producer that comes too early would not see."""
    with mortal_bus(run_dir) as bus:
        while not bus.subscribers():
            bus.drain()
