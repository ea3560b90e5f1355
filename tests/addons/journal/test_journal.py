"""A journal on a real bus: what is published is in the store, once, and settled only then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from eventbus_mp import BusClosed, Event, EventBus, UsageError
from eventbus_mp.addons.journal import Journal, Selection, open_store
from eventbus_mp.addons.journal.store import StoreUnavailable
from eventbus_mp.addons.journal.writer import Writer
from tests.addons.journal.rows import keys

ALL = Selection()

StartJournal = Callable[..., Journal]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
def start(bus: EventBus, url: str) -> Iterator[StartJournal]:
    """Starts journals; all are stopped at the end."""
    journals: list[Journal] = []

    def make(*, bus: EventBus = bus, url: str = url, **settings: object) -> Journal:
        journals.append(Journal(bus, url, **settings))  # type: ignore[arg-type]
        return journals[-1].start()

    yield make
    for journal in journals:
        journal.stop()


def stored_ids(url: str, topic: str | None = None) -> list[str | int]:
    with open_store(url) as store:
        return [entry.row.id for entry in store.page(Selection(topic=topic), 100_000)]


def test_what_is_published_is_stored_in_its_order(bus: EventBus, start: StartJournal, url: str) -> None:
    start()
    bus.notify_many(Event(number, "ab"[number % 2], {"n": number}) for number in range(3_000))
    bus.notify(Event("3000", "a", bytes(1 << 20), transaction_id="tx", source="here", headers={"a": "b"}))
    bus.drain()
    assert stored_ids(url) == [*range(3_000), "3000"]
    with open_store(url) as store:
        found = store.find("a", "3000")
        assert found is not None
        assert (found.row.source, found.row.headers, len(found.row.data) > 1 << 20) == ("here", '{"a": "b"}', True)
        assert keys(store.page(Selection(transaction_id="tx"), 10)) == [("a", "3000")]


def test_events_wait_for_a_journal_that_comes_back(bus: EventBus, start: StartJournal, url: str) -> None:
    start().stop()
    bus.notify_many(Event(number, "a", None) for number in range(100))
    assert stored_ids(url) == []
    start()
    bus.drain()
    assert stored_ids(url) == list(range(100))


def test_only_what_the_patterns_match(bus: EventBus, start: StartJournal, url: str) -> None:
    start(patterns=["b"])
    bus.notify(Event(1, "b", None))
    bus.notify(Event(2, "a", None))
    bus.drain()
    assert stored_ids(url) == [1]


def test_what_is_published_twice_is_stored_once(bus: EventBus, start: StartJournal, url: str) -> None:
    journal = start()
    for _ in range(2):
        bus.notify(Event(1, "a", None))
        bus.drain()
    assert stored_ids(url) == [1]
    journal.stop()
    status = journal.status()
    assert (status.state, status.stored, status.duplicates, status.rejected) == ("stopped", 1, 1, 0)
    assert status.commit_s > 0


def test_an_event_that_no_store_can_hold_is_skipped_with_the_reason(
    bus: EventBus, start: StartJournal, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = start()
    with caplog.at_level(logging.CRITICAL, "eventbus_mp.journal"):
        bus.notify_many([Event(1, "a", None), Event(2, "a", b"x", occurred_at=1 << 63), Event(3, "a", None)])
        bus.drain()
    assert stored_ids(url) == [1, 3]
    reason = "occurred_at=9223372036854775808 has more than 64 bits"
    (subscriber,) = bus.snapshot().subscribers
    assert (subscriber.completed, subscriber.skipped, subscriber.skip_reasons) == (2, 1, {reason: 1})
    with open_store(url) as store:
        (rejected,) = store.rejected(10)
    assert (rejected.id, rejected.reason, b"x" in bytes(rejected.data or b"")) == (2, reason, True)
    journal.stop()
    assert journal.status().rejected == 1


def test_a_small_batch_goes_at_once_when_it_is_full(bus: EventBus, start: StartJournal, url: str) -> None:
    journal = start(batch_bytes=1, batch_within_s=3_600.0)
    bus.notify_many(Event(number, "a", number) for number in range(10))
    bus.drain(timeout_s=60)
    assert stored_ids(url) == list(range(10))
    journal.stop()
    assert journal.status().commits == 10


def test_one_that_waits_for_a_batch_ends_at_once(
    bus: EventBus, start: StartJournal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_taken, add = Flag(), Writer._add

    def taken(*arguments: Any) -> None:
        add(*arguments)
        is_taken.set()

    monkeypatch.setattr(Writer, "_add", taken)
    journal = start(batch_within_s=3_600.0)
    bus.notify(Event(1, "a", None))
    assert is_taken.wait(60)
    journal.stop(timeout_s=60)
    assert stored_ids(url) == [1]


def test_a_second_one_stands_by(
    bus: EventBus, start: StartJournal, url: str, make_bus: Callable[..., EventBus]
) -> None:
    first = start()
    second = start(bus=make_bus())
    assert (first.status().state, second.status().state) == ("writing", "standing by")
    first.stop()
    bus.notify(Event(1, "a", None))
    bus.drain(timeout_s=60)
    assert stored_ids(url) == [1]
    second.stop()
    assert (first.status().stored, second.status().stored) == (0, 1)


def test_two_stores_of_one_name_are_refused(bus: EventBus, start: StartJournal, tmp_path: Path) -> None:
    start()
    with pytest.raises(UsageError, match="another name"):
        start(url=f"sqlite:///{tmp_path / 'other.db'}")
    start(url=f"sqlite:///{tmp_path / 'other.db'}", name="other")
    bus.notify(Event(1, "a", None))
    bus.drain()
    assert stored_ids(f"sqlite:///{tmp_path / 'other.db'}") == [1]


def test_one_that_runs_is_not_started_again(start: StartJournal) -> None:
    with pytest.raises(UsageError, match="is running"):
        start().start()


def test_one_that_has_ended_by_itself_is_started_by_with(
    make_bus: Callable[..., EventBus], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(topics=["a"])
    journal = Journal(bus, url).start()
    with caplog.at_level(logging.CRITICAL, "eventbus_mp.journal"):
        bus.close()
        with pytest.raises(BusClosed):
            journal.wait(60)
    assert journal.status().state == "failed"
    with pytest.raises(BusClosed), journal:
        pass


def test_a_store_that_cannot_be_opened(start: StartJournal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        start(url=f"sqlite:///{tmp_path / 'file' / 'test.db'}")


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_events": 0},
        {"batch_events": True},
        {"batch_bytes": 0},
        {"batch_within_s": -1.0},
        {"keep": "soon"},
        {"keep_topics": {"(": "1h"}},
        {"patterns": ["("]},
        {"on_outage": "drop"},
        {"spool": "sqlite:///spool.db"},
    ],
)
def test_what_is_no_setting(bus: EventBus, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Journal(bus, "sqlite:///never.db", **settings)  # type: ignore[arg-type]
