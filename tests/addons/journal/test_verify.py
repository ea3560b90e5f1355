"""Gaps, from the counters that runs have noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, Run, open_store
from eventbus_mp.addons.journal.counters import first_counts
from eventbus_mp.addons.journal.verify import Gap, find_gaps

RUN = Run("shop", "one", "microsecond", "journal", ("",), False, 10, {}, 20, {"a": 5, "b": 1}, 0, 20)
PASSED = "passed while no journal was subscribed"


def later(**changes: object) -> Run:
    return replace(RUN, started_ns=30, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("runs", "gaps"),
    [
        ([], []),
        ([RUN], []),
        ([RUN, later(notified_first={"a": 5, "b": 1})], []),
        ([RUN, later(notified_first={"a": 9, "b": 1})], [Gap("shop", "a", 4, False, 20, 30, PASSED)]),
        ([RUN, later(notified_first={"a": 9, "b": 1}, continues=True)], []),
        ([replace(RUN, ended_ns=None), later(notified_first={"a": 9})], [Gap("shop", "a", 4, True, 20, 30, PASSED)]),
        ([RUN, later(notified_first={"a": 2, "b": 1})], [Gap("shop", "a", 2, False, 20, 30, PASSED)]),
        ([RUN, later(notified_first={"a": 5, "new": 3})], [Gap("shop", "new", 3, False, 20, 30, PASSED)]),
        ([replace(RUN, notified_first={"a": 2})], [Gap("shop", "a", 2, False, None, 10, PASSED)]),
        ([RUN, later(incarnation="two", notified_first={"a": 2})], [Gap("shop", "a", 2, False, None, 30, PASSED)]),
        ([RUN, later(bus="other", incarnation="two")], []),
    ],
    ids=["none", "one", "no gap", "a gap", "goes on", "killed", "anew", "new", "late", "a new bus", "another bus"],
)
def test_gaps_between_runs(runs: list[Run], gaps: list[Gap]) -> None:
    assert find_gaps(runs) == gaps


def test_what_waited_for_a_journal_that_did_not_come_back() -> None:
    runs = [replace(RUN, waiting=3), later(notified_first={"a": 5, "b": 1})]
    assert [(gap.topic, gap.events, gap.at_most) for gap in find_gaps(runs)] == [(None, 3, False)]
    assert find_gaps([runs[0], replace(runs[1], continues=True)]) == []
    (gap,) = find_gaps([replace(RUN, waiting=3, ended_ns=None), later(incarnation="two")])
    assert (gap.events, gap.at_most, gap.reason) == (3, True, "waited when the bus ended")


def test_what_has_passed_since_the_last_run() -> None:
    now = {("shop", "one"): {"a": 7, "b": 1}}
    assert [(gap.topic, gap.events) for gap in find_gaps([RUN], now)] == [("a", 2)]
    assert find_gaps([RUN], {("shop", "two"): {"a": 7}}) == []


@pytest.mark.parametrize(
    ("before", "after", "delivered", "first"),
    [
        ({"a": 5}, {"a": 5}, 0, {"a": 5}),
        ({"a": 5}, {"a": 9}, 4, {"a": 5}),
        ({"a": 5}, {"a": 9}, 1, {"a": 8}),
        ({"a": 5, "b": 1}, {"a": 9, "b": 2}, 1, {"a": 9, "b": 1}),
        ({}, {"a": 9}, 9, {"a": 0}),
        ({"a": 5}, {"a": 1}, 0, {"a": 1}),
    ],
)
def test_the_counters_of_the_moment_of_a_subscription(
    before: dict[str, int], after: dict[str, int], delivered: int, first: dict[str, int]
) -> None:
    assert first_counts(before, after, delivered) == first


@pytest.fixture
def quick(make_bus: Callable[..., EventBus]) -> Iterator[EventBus]:
    """A bus on which no subscriber stays without a process; another subscriber has events counted all the time."""
    bus = make_bus(topics=["a", "b"], orphan_grace_s=0.0)
    with bus.inbox("other", [""]):
        yield bus


def test_events_that_passed_a_journal_by(quick: EventBus, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    quick.notify_many(Event(number, "a", None) for number in range(3))
    with Journal(quick, url):
        quick.notify_many(Event(number, "a", None) for number in range(3, 10))
    quick.notify_many(Event(number, "ab"[number % 2], None) for number in range(10, 15))
    with Journal(quick, url):
        quick.notify(Event(15, "a", None))
    with open_store(url) as store:
        runs = store.runs()
    found = [(gap.topic, gap.events, gap.at_most) for gap in find_gaps(runs)]
    # What the journal had not taken when it was stopped went with its subscriber.
    waited = [("", gap[1], False) for gap in found if gap[0] is None]
    assert [gap for gap in found if gap[0]] == [("a", 3, False), ("a", 3, False), ("b", 2, False)]
    assert sum(run.stored for run in runs) + sum(gap[1] for gap in waited) >= 8 - runs[-1].waiting


def test_a_journal_that_comes_back_in_time_has_no_gap(bus: EventBus, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with bus.inbox("other", [""]):
        for number in range(3):
            with Journal(bus, url):
                bus.notify(Event(number, "a", None))
            bus.notify(Event(-number - 1, "a", None))
        with Journal(bus, url), open_store(url) as store:
            assert [run.continues for run in store.runs()] == [False, True, True, True]
            assert find_gaps(store.runs()) == []
