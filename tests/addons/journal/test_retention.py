"""What is deleted, when, and what never is."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from eventbus_mp import InvalidPattern, UsageError
from eventbus_mp.addons.journal import Checkpoint, Rejected, Selection, Store
from eventbus_mp.addons.journal.retention import HOLD_NS, Pruning, Retention, duration_ns
from tests.addons.journal.rows import SECOND_NS, row

HOUR_NS = 3_600 * SECOND_NS
NOW_NS = 1_000 * HOUR_NS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h", 3_600), ("1.5h", 5_400), ("30d", 2_592_000), ("2w", 1_209_600), ("0s", 0)],
)
def test_times(text: str, seconds: int) -> None:
    assert duration_ns(text) == seconds * SECOND_NS


@pytest.mark.parametrize("text", ["forever", "99999999w", "9" * 400 + "s"])
def test_longer_than_times_go_is_for_ever(text: str) -> None:
    assert duration_ns(text) is None


@pytest.mark.parametrize("text", ["", "30", "d", "-1h", "1 h", "1y", 30, b"1h"])
def test_what_is_no_time(text: Any) -> None:
    with pytest.raises(UsageError, match="is not how long to keep events"):
        Retention(text)


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(InvalidPattern):
        Retention(topics={"(": "1h"})


def test_the_first_pattern_counts() -> None:
    retention = Retention("1h", {"debug_keep": None, "debug_": "1m", "d": "forever"})
    names = ["debug_a", "debug_keep_a", "data", "order"]
    assert retention.kept_ns(names) == {60 * SECOND_NS: ["debug_a"], HOUR_NS: ["order"]}


@pytest.fixture
def aged(store: Store) -> Store:
    """An event of "a" and of "b" for each of the last ten hours, the oldest first."""
    for hours in range(10, 0, -1):
        for topic in "ab":
            store.append([replace_time(row(f"{topic}{hours}", topic), NOW_NS - hours * HOUR_NS)])
    return store


def replace_time(found: Any, ns: int) -> Any:
    return found._replace(recorded_ns=ns)


def left(store: Store) -> list[Any]:
    return [entry.row.id for entry in store.page(Selection(), 100)]


def test_what_is_older_goes_in_steps(aged: Store) -> None:
    pruning = Pruning(aged, Retention("3h", {"b": "9h"}))
    assert pruning.step(NOW_NS, 5) == 5
    assert pruning.step(NOW_NS, 5) == 3
    assert pruning.step(NOW_NS, 5) == 0
    assert left(aged) == ["b9", "b8", "b7", "b6", "b5", "b4", "a3", "b3", "a2", "b2", "a1", "b1"]


def test_rejected_events_are_kept_as_long_as_others(aged: Store) -> None:
    old, new = (Rejected("a", id, "why", None, None, 2, NOW_NS - id * HOUR_NS) for id in (4, 2))
    aged.append([], [old, new])
    assert Pruning(aged, Retention("forever")).step(NOW_NS) == 0
    assert Pruning(aged, Retention("3h")).step(NOW_NS) == 15
    assert [one.id for one in aged.rejected(10)] == [2]


def test_what_is_stamped_in_the_future_goes_when_it_has_been_there_for_long(
    aged: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock was ten years ahead for a while, and each later row has that time as well."""
    elapsed_ns = 0
    pruning = Pruning(aged, Retention("3h"), lambda: elapsed_ns)
    aged.append([replace_time(row("ahead", "a"), NOW_NS + 87_600 * HOUR_NS)])
    aged.append([replace_time(row("right", "a"), NOW_NS)])
    with caplog.at_level(logging.CRITICAL, "eventbus_mp.journal"):
        pruning.step(NOW_NS)
    for hours in range(1, 4):
        elapsed_ns = hours * HOUR_NS
        aged.append([replace_time(row(f"{hours}", "a"), NOW_NS + elapsed_ns)])
        pruning.step(NOW_NS + elapsed_ns)
        if hours < 3:
            assert {"ahead", "right"} <= set(left(aged))
    assert left(aged) == ["1", "2", "3"]
    assert len(pruning._looks) <= 4


def test_a_clock_that_was_not_set_yet_deletes_nothing_that_is_new(aged: Store) -> None:
    """A machine without a clock of its own begins in 1970. What is stored then counts as stored after the last."""
    aged.append([replace_time(row("early", "a"), 5 * SECOND_NS)])
    pruning = Pruning(aged, Retention("3h"), lambda: 0)
    assert pruning.step(5 * SECOND_NS) == 0
    pruning.step(NOW_NS)
    assert left(aged) == ["a3", "b3", "a2", "b2", "a1", "b1", "early"]


def test_nothing_goes_that_is_kept_for_ever(aged: Store) -> None:
    assert Pruning(aged, Retention("forever")).step(NOW_NS) == 0
    assert Pruning(aged, Retention(None, {"a": None})).step(NOW_NS) == 0


def test_an_event_goes_when_its_own_ttl_is_over(store: Store) -> None:
    now_us = NOW_NS // 1_000
    fields = [{"occurred_at": now_us - 10, "ttl": 9}, {"occurred_at": now_us, "ttl": 1}, {}]
    store.append([replace_time(row(number, **given), NOW_NS) for number, given in enumerate(fields)])
    assert Pruning(store, Retention("1h", own_ttl=False)).step(NOW_NS) == 0
    assert Pruning(store, Retention("1h")).step(NOW_NS) == 1
    assert left(store) == [1, 2]


def test_what_an_open_replay_needs_stays(aged: Store) -> None:
    position = {entry.row.id: entry.position for entry in aged.page(Selection(), 100)}
    checkpoint = Checkpoint("copy", "other", position["b8"], updated_ns=NOW_NS)
    aged.save_checkpoint(checkpoint)
    pruning = Pruning(aged, Retention("0s"))
    assert pruning.step(NOW_NS) == 5
    assert left(aged)[0] == "b8"
    aged.save_checkpoint(replace(checkpoint, next_position=position["b2"]))
    pruning.step(NOW_NS)
    assert left(aged) == ["b2", "a1", "b1"]
    aged.save_checkpoint(replace(checkpoint, ended=True))
    pruning.step(NOW_NS)
    assert left(aged) == []


def test_a_replay_that_was_forgotten_holds_nothing_in_the_end(aged: Store) -> None:
    aged.save_checkpoint(Checkpoint("copy", "other", 1, updated_ns=NOW_NS - HOLD_NS))
    assert Pruning(aged, Retention("0s")).step(NOW_NS) == 20


def test_a_clock_that_was_set_back_deletes_nothing_early(store: Store) -> None:
    store.append([replace_time(row("before"), NOW_NS)])
    store.append([replace_time(row("after"), NOW_NS - 100 * HOUR_NS)])
    assert Pruning(store, Retention("1h")).step(NOW_NS) == 0
    assert left(store) == ["before", "after"]
