"""Events that a store cannot hold as rows."""

from __future__ import annotations

import pytest

from eventbus_mp.addons.journal.row import Row
from eventbus_mp.addons.journal.store import Rejected, Selection, Store
from tests.addons.journal.rows import keys, row

ALL = Selection()
BAD = [
    row("bad")._replace(occurred_at=1 << 70),
    row("bad")._replace(source="\ud800"),
    row("bad")._replace(occurred_at="now"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("bad", BAD, ids=["too large", "no unicode", "a text"])
@pytest.mark.parametrize("topic", ["order", "new"])
def test_a_row_that_a_store_cannot_hold_is_rejected_and_the_others_are_stored(
    store: Store, bad: Row, topic: str
) -> None:
    given = [row("1"), bad._replace(topic=topic), row("2"), row("1"), row("3", topic)]
    stored = store.append(given)
    assert stored[:2] == (3, 1)
    assert [index for index, _ in stored.refused] == [1]
    assert keys(store.page(ALL, 10)) == [("order", "1"), ("order", "2"), (topic, "3")]
    (rejected,) = store.rejected(10)
    assert (rejected.topic, rejected.id, rejected.reason) == (topic, "bad", stored.refused[0][1])
    assert bytes(rejected.data or b"") == bytes(bad.data)


def test_rejected_events_are_kept_once(store: Store) -> None:
    one = Rejected("order", "1", "why", b"data", None, 2, 5)
    other = Rejected("order", 1, "too large", None, b"buffers", 2, 6)
    store.append([row("2")], [one, other])
    store.append([], [one._replace(reason="again")])
    found = store.rejected(10)
    assert [place._replace(position=0) for place in found] == [one, other]
    assert store.rejected(10, after=found[0].position) == found[1:]
    assert store.rejected(1) == found[:1]


def test_rejected_events_are_forgotten(store: Store) -> None:
    store.append([], [Rejected("order", id, "why", b"data", None, 2, at) for id, at in (("1", 1), (1, 2), ("2", 3))])
    assert store.drop_rejected([("order", "1"), ("order", 7)]) == 1
    assert store.drop_rejected([("order", "1")]) == store.drop_rejected([]) == 0
    assert store.drop_rejected_before(3, 10) == 1
    assert [one.id for one in store.rejected(10)] == ["2"]
    assert store.drop_rejected_before(4, 0) == 0
