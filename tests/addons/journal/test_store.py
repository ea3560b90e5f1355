"""What every store does: one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import EncodedData, Event, InvalidPattern, UsageError
from eventbus_mp.addons.journal.opening import open_store
from eventbus_mp.addons.journal.row import event_of, row_of
from eventbus_mp.addons.journal.store import (
    Checkpoint,
    Heading,
    Rejected,
    Run,
    Selection,
    Store,
    Stored,
    StoreUnavailable,
)
from tests.addons.journal.conftest import OpenStore
from tests.addons.journal.rows import SECOND_NS, entries_of, keys, plain, row, rows

ALL = Selection()
RUN = Run(
    bus="shop",
    incarnation="abc",
    time_unit="microsecond",
    subscriber="journal",
    patterns=("",),
    continues=False,
    started_ns=1,
    notified_first={"order": 3},
    noted_ns=1,
)


# --- storing ---


def test_what_is_stored_is_there_as_it_was(store: Store) -> None:
    given = [
        row("1"),
        row(1, "other", data={"a": b"x" * 1000}, transaction_id=5, headers={"a": "é"}),
        row("é", occurred_at=-5, initialized_at=(1 << 63) - 1, ttl=7, source="here", transaction_id="5"),
        row("4", data=[memoryview(b"one"), memoryview(b"two")]),
    ]
    assert store.append(given) == Stored(4, 0)
    found = store.page(ALL, 10)
    assert entries_of(found) == list(map(plain, given))
    assert [entry.position for entry in found] == sorted({entry.position for entry in found})


def test_nothing_is_stored_of_nothing(store: Store) -> None:
    assert store.append([]) == Stored(0, 0)
    assert (store.page(ALL, 10), store.last_position(), store.count(ALL), store.topics()) == ([], 0, 0, [])


def test_an_id_and_a_text_that_looks_like_it_are_two(store: Store) -> None:
    store.append([row(7, transaction_id=1), row("7", transaction_id="1")])
    assert [entry.row.id for entry in store.page(ALL, 10)] == [7, "7"]
    for id in (7, "7"):
        found = store.find("order", id)
        assert found is not None
        assert found.row.id == id
    assert keys(store.page(Selection(transaction_id=1), 10)) == [("order", 7)]
    assert keys(store.page(Selection(transaction_id="1"), 10)) == [("order", "7")]


def test_integers_of_64_bits_are_ids(store: Store) -> None:
    ids = [-(1 << 63), -1, 0, (1 << 63) - 1]
    store.append([row(id) for id in ids])
    assert [entry.row.id for entry in store.page(ALL, 10)] == ids


def test_a_row_that_is_there_stays_as_it_is(store: Store) -> None:
    store.append([row("1", data="first")])
    assert store.append([row("1", data="second"), row("2"), row("2"), row("1", "other")]) == Stored(2, 2)
    found = store.find("order", "1")
    assert found is not None
    assert event_of(found.row).data == "first"
    assert store.count_per_topic(ALL) == {"order": 2, "other": 1}


def test_a_batch_of_any_size_keeps_its_order(store: Store) -> None:
    total = 0
    for size in (1, 3, 63, 64, 65, 256, 257, 700):
        assert store.append(rows(size, begin=total)) == Stored(size, 0)
        total += size
    assert [entry.row.id for entry in store.page(ALL, total + 1)] == [str(number) for number in range(total)]


def test_rows_of_a_batch_have_what_others_of_it_lack(store: Store) -> None:
    fields: list[dict[str, Any]] = [
        {},
        {"transaction_id": "t"},
        {"occurred_at": 1, "ttl": 2},
        {"headers": {"a": "b"}},
        {"source": "here", "initialized_at": 3},
        {"data": [memoryview(b"beside")]},
    ]
    batches = [
        [row(f"{shift}-{number}", **fields[(number + shift) % count]) for number in range(300)]
        for shift, count in enumerate([1, 2, 6, 3, 1], 1)
    ]
    for batch in batches:
        assert store.append(batch).stored == len(batch)
    assert entries_of(store.page(ALL, 2_000)) == [plain(one) for batch in batches for one in batch]


def test_a_large_event_is_stored(store: Store) -> None:
    store.append([row("1", data=bytes(20 << 20)), row("2", data=memoryview(bytes(20 << 20)))])
    assert [len(event_of(entry.row).data) for entry in store.page(ALL, 10)] == [20 << 20] * 2


def test_a_list_reads_no_data(store: Store) -> None:
    large = row("1", data=[memoryview(bytes(20 << 20)), "text"], transaction_id=5, source="here", at_s=3)
    store.append([large, row("2", "other", data="text")])
    first, second = store.headings(ALL, 10)
    nbytes = len(large.data) + len(large.buffers or b"")
    assert first == Heading(1, "order", "1", 5, "here", 3 * SECOND_NS, nbytes)
    assert (second.position, second.topic, second.nbytes) == (2, "other", 5)
    assert store.size_bytes() > 20 << 20


def test_a_thousand_topics(store: Store) -> None:
    store.append([row("1", f"topic_{number}") for number in range(1_000)])
    assert len(store.topics()) == 1_000
    assert store.count(Selection(topic="topic_99")) == 11


# --- reading ---


@pytest.fixture
def many(store: Store) -> Store:
    """Ten of "a", "b" and "c" each, in turn, one a second, from the second 100 on."""
    for number in range(30):
        tx = {"transaction_id": f"tx{number % 5}"} if number % 2 else {}
        store.append([row(number, "abc"[number % 3], at_s=100 + number, **tx)])
    return store


def ids(entries: list[Any]) -> list[Any]:
    return [entry.row.id for entry in entries]


def test_pages_follow_each_other(many: Store) -> None:
    forward: list[Any] = []
    while page := many.page(Selection(after=forward[-1].position if forward else 0), 7):
        forward += page
    assert ids(forward) == list(range(30))
    backward: list[Any] = []
    while page := many.page(Selection(before=backward[-1].position if backward else None), 7, newest_first=True):
        backward += page
    assert backward == forward[::-1]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"topic": "a"}, range(0, 30, 3)),
        ({"topic": "a|b"}, [number for number in range(30) if number % 3 < 2]),
        ({"topic": ""}, range(30)),
        ({"topic": "no"}, []),
        ({"transaction_id": "tx1"}, [1, 11, 21]),
        ({"transaction_id": 1}, []),
        ({"since_ns": 120 * SECOND_NS}, range(20, 30)),
        ({"until_ns": 103 * SECOND_NS}, range(3)),
        ({"since_ns": 120 * SECOND_NS - 1, "until_ns": 121 * SECOND_NS + 1}, [20, 21]),
        ({"since_ns": 0, "until_ns": 500 * SECOND_NS}, range(30)),
        ({"since_ns": 500 * SECOND_NS}, []),
        ({"until_ns": 0}, []),
        ({"topic": "c", "transaction_id": "tx1", "since_ns": 105 * SECOND_NS}, [11]),
    ],
)
def test_what_is_selected(many: Store, wanted: dict[str, Any], found: Any, newest_first: bool) -> None:
    selection = Selection(**wanted)
    expected = list(found)[::-1] if newest_first else list(found)
    assert ids(many.page(selection, 100, newest_first=newest_first)) == expected
    assert ids(many.page(selection, 2, newest_first=newest_first)) == expected[:2]
    assert [int(one.id) for one in many.headings(selection, 100, newest_first=newest_first)] == expected
    assert many.count(selection) == len(expected)
    per_topic = many.count_per_topic(selection)
    assert sum(per_topic.values()) == len(expected)
    assert set(per_topic) == {"abc"[number % 3] for number in expected}


def test_positions_bound_a_selection(many: Store) -> None:
    position = {entry.row.id: entry.position for entry in many.page(ALL, 100)}
    selection = Selection(after=position[5], before=position[9])
    assert ids(many.page(selection, 100)) == [6, 7, 8]
    assert many.count(selection) == 3


def test_a_pattern_that_is_none(many: Store) -> None:
    with pytest.raises(InvalidPattern, match=r"'\('"):
        many.page(Selection(topic="("), 1)


def test_topics_positions_and_what_is_not_there(many: Store) -> None:
    assert many.topics() == ["a", "b", "c"]
    assert many.last_position() == many.page(ALL, 1, newest_first=True)[0].position
    assert many.find("a", 1) is None
    assert many.find("unheard of", 1) is None


def test_the_position_of_a_time(many: Store) -> None:
    entries = many.page(ALL, 100)
    for seconds in (0, 100, 115, 129):
        first = next(entry for entry in entries if entry.row.recorded_ns >= seconds * SECOND_NS)
        assert many.position_at(seconds * SECOND_NS) == first.position
    assert many.position_at(130 * SECOND_NS) > many.last_position()


def test_the_position_of_a_time_among_gaps(many: Store) -> None:
    for number in range(5, 25):
        many.delete("abc"[number % 3], number)
    left = {entry.row.id: entry.position for entry in many.page(ALL, 100)}
    assert many.position_at(107 * SECOND_NS) == left[25]


# --- times ---


def test_a_clock_that_was_set_back(store: Store, open_one: OpenStore) -> None:
    store.append([row("1", at_s=1_000)])
    store.append([row("2", at_s=10), row("3", at_s=1_001), row("4", at_s=5), row("5", at_s=6), row("6", at_s=4)])
    store.close()
    again = open_one(writes=True)
    again.append([row("7", at_s=7)])
    seconds = [entry.row.recorded_ns // SECOND_NS for entry in again.page(ALL, 10)]
    assert seconds == [1_000, 1_000, 1_001, 1_001, 1_001, 1_001, 1_001]
    assert ids(again.page(Selection(since_ns=1_001 * SECOND_NS), 10)) == ["3", "4", "5", "6", "7"]


# --- deleting ---


def test_one_entry_is_deleted(many: Store) -> None:
    assert many.delete("a", 0)
    assert not many.delete("a", 0)
    assert not many.delete("a", "3")
    assert not many.delete("unheard of", 3)
    assert many.count_per_topic(ALL) == {"a": 9, "b": 10, "c": 10}


def test_topics_are_deleted_below_a_position_in_steps(many: Store) -> None:
    position = many.position_at(120 * SECOND_NS)
    assert many.delete_below(position, ["a", "c", "unheard of"], 5) == 5
    assert many.delete_below(position, ["a", "c"], 100) == 8
    assert many.delete_below(position, ["a", "c"], 100) == 0
    assert ids(many.page(Selection(topic="a|c"), 100)) == [20, 21, 23, 24, 26, 27, 29]
    assert many.count(Selection(topic="b")) == 10


def test_what_has_expired_is_deleted_in_steps(store: Store) -> None:
    # In the bus's microseconds.
    store.append([row(number, occurred_at=number * 1_000_000, ttl=1_000_000) for number in range(10)])
    store.append([row("for ever", occurred_at=0), row("bare")])
    kept = store.page(ALL, 100)[2].position
    assert store.delete_expired(1, None, 100) == 0
    assert store.delete_expired(6 * SECOND_NS, kept, 100) == 2
    assert store.delete_expired(6 * SECOND_NS, None, 1) == 1
    assert store.delete_expired(6 * SECOND_NS, None, 100) == 3
    assert ids(store.page(ALL, 100)) == [6, 7, 8, 9, "for ever", "bare"]


def test_no_position_comes_twice(store: Store, open_one: OpenStore) -> None:
    store.append(rows(10))
    last = store.last_position()
    assert store.delete_below(last + 1, ["order"], 100) == 10
    store.reclaim()
    store.close()
    again = open_one(writes=True)
    assert again.last_position() == 0
    again.append([row("new")])
    assert again.last_position() > last


# --- runs ---


def test_a_run_counts_what_it_stores(store: Store) -> None:
    number = store.begin_run(RUN)
    store.append([row("1"), row("2"), row("1")], [Rejected("order", "3", "why", None, None, 2, 5)], run=number)
    store.append([row("4"), row("5")._replace(occurred_at=1 << 70)], run=number)
    store.append([row("6")])
    (run,) = store.runs()
    assert (run.stored, run.duplicates, run.rejected, run.number, run.ended_ns) == (3, 1, 2, number, None)
    assert (run.notified_first, run.patterns, run.continues) == ({"order": 3}, ("",), False)
    store.note_run(number, noted_ns=7, notified={"order": 9, "é": 1}, waiting=4)
    store.note_run(number, noted_ns=8, notified={"order": 10}, waiting=0, ended=True)
    (run,) = store.runs()
    assert (run.noted_ns, run.notified_last, run.waiting, run.ended_ns) == (8, {"order": 10}, 0, 8)
    assert store.begin_run(RUN) == store.runs()[1].number > number


# --- checkpoints ---


def test_checkpoints_are_kept_by_name(store: Store, open_one: OpenStore) -> None:
    reader = open_one()
    assert reader.checkpoints() == []
    assert not reader.drop_checkpoint("b")
    for name in ("b", "a"):
        reader.save_checkpoint(Checkpoint(name, "copy", 5, until_position=9, updated_ns=1))
    reader.save_checkpoint(Checkpoint("a", "copy", 6, updated_ns=2, ended=True))
    expected = [Checkpoint("a", "copy", 6, updated_ns=2, ended=True), Checkpoint("b", "copy", 5, 9, 1)]
    assert store.checkpoints() == expected
    assert store.drop_checkpoint("a")
    assert reader.checkpoints() == expected[1:]


# --- who may do what ---


def test_one_writes_and_the_others_stand_by(store: Store, open_one: OpenStore, store_url: str) -> None:
    assert store.take_lock()
    second = open_store(store_url, writes=True)
    try:
        assert not second.take_lock()
        with pytest.raises(UsageError, match="take_lock"):
            second.append([row("1")])
        store.close()
        store.close()
        assert second.take_lock()
        assert second.append([row("1")]) == Stored(1, 0)
    finally:
        second.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.append([row("1")]),
        lambda store: store.begin_run(RUN),
        lambda store: store.delete("order", "1"),
        lambda store: store.delete_below(5, ["order"], 1),
        lambda store: store.delete_expired(5, None, 1),
    ],
)
def test_a_reader_cannot_write(store: Store, open_one: OpenStore, call: Callable[[Store], Any]) -> None:
    store.append([row("1")])
    with pytest.raises(UsageError):
        call(open_one())
    assert store.count(ALL) == 1


def test_a_reader_sees_what_is_stored_meanwhile(store: Store, open_one: OpenStore) -> None:
    reader = open_one()
    assert reader.page(ALL, 10) == []
    store.append([row("1")])
    assert keys(reader.page(ALL, 10)) == [("order", "1")]


def test_what_does_not_exist_cannot_be_read(open_one: OpenStore) -> None:
    with pytest.raises(StoreUnavailable):
        open_one()


def test_a_store_that_was_closed_is_there_for_the_next(store: Store, open_one: OpenStore) -> None:
    store.append([row("1")])
    store.close()
    with pytest.raises(UsageError):
        store.append([row("2")])
    with open_one() as reader:
        assert keys(reader.page(ALL, 10)) == [("order", "1")]


def test_data_that_cannot_be_decoded_here_comes_back_byte_for_byte(store: Store) -> None:
    unknown = EncodedData(b"\xc1unknown", (memoryview(b"beside"),))
    event = Event.from_encoded("1", "order", unknown)
    store.append([row_of(event, 5, 1_000)])
    found = event_of(store.page(ALL, 1)[0].row).encoded
    assert (bytes(found.data), bytes(found.buffers[0])) == (b"\xc1unknown", b"beside")
