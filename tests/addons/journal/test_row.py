"""An event to a row and back."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from eventbus_mp import EncodedData, Event
from eventbus_mp.addons.journal.row import PAYLOAD_BYTES_MAX, RefusedRow, event_of, row_of
from tests.addons.journal.rows import SECOND_NS, row

UNIT_NS = 1_000


@pytest.mark.parametrize(
    "event",
    [
        Event("1", "order", None),
        Event(7, "order", {"a": [1, 2.5, "x"], "b": b"bytes"}, transaction_id=8),
        Event("1", "order", (1, {2, 3}, 1 << 80), initialized_at=1, occurred_at=2, source="here", ttl=3),
        Event("\0é", "täglich", "x", transaction_id="\0", headers={"a": "b", "é": "\0"}),
        Event("1", "order", [memoryview(b"one"), bytearray(b"two"), memoryview(b"")]),
    ],
    ids=["bare", "integers", "all fields", "letters", "buffers"],
)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    found = event_of(row_of(event, 5, UNIT_NS))
    assert (found.id, type(found.id)) == (event.id, type(event.id))
    assert found == event


def test_arrays_come_back() -> None:
    numpy = pytest.importorskip("numpy")
    event = Event("1", "order", {"a": numpy.arange(1000), "b": numpy.ones((3, 5))})
    found = event_of(row_of(event, 5, UNIT_NS)).data
    assert (found["a"] == numpy.arange(1000)).all()
    assert (found["b"] == 1).all()


def test_data_is_not_decoded() -> None:
    unknown = b"\xc1 nobody can read this"
    event = Event.from_encoded("1", "order", EncodedData(unknown, ()))
    assert bytes(row_of(event, 5, UNIT_NS).data) == unknown


def test_when_it_expires_is_in_nanoseconds_whatever_the_unit() -> None:
    event = Event("1", "order", None, occurred_at=10, ttl=5)
    assert row_of(event, 0, SECOND_NS).expires_ns == 15 * SECOND_NS
    assert row_of(event, 0, 1).expires_ns == 15
    assert row(1, occurred_at=5).expires_ns is None


def test_an_expiry_beyond_all_times_is_at_the_end_of_times() -> None:
    event = Event("1", "order", None, occurred_at=1 << 62, ttl=1 << 62)
    assert row_of(event, 0, SECOND_NS).expires_ns == (1 << 63) - 1


def test_what_is_published_again_may_have_other_headers_and_no_ttl() -> None:
    found = event_of(row(1, occurred_at=1, ttl=2, headers={"a": "b"})._replace(ttl=None), headers={"c": "d"})
    assert (found.ttl, found.occurred_at, dict(found.headers or {})) == (None, 1, {"c": "d"})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"occurred_at": 1 << 63}, "occurred_at=9223372036854775808 has more than 64 bits"),
        ({"initialized_at": -(1 << 70)}, "initialized_at=-1180591620717411303424 has more than 64 bits"),
        ({"source": "\ud800"}, "source='\\ud800' is not valid unicode text"),
        ({"transaction_id": "a\udfff"}, "transaction_id='a\\udfff' is not valid unicode text"),
        ({"transaction_id": 1.5}, "transaction_id=1.5 is a float"),
        ({"source": [1]}, "source=[1] is a list"),
        ({"occurred_at": "now"}, "occurred_at='now' is a str"),
    ],
)
def test_what_no_column_holds_is_refused(fields: dict[str, Any], reason: str) -> None:
    encoded = Event("1", "order", None).encoded
    with pytest.raises(RefusedRow) as refused:
        row_of(Event.from_encoded("1", "order", encoded, **fields), 0, UNIT_NS)
    assert str(refused.value) == reason


def test_data_that_cannot_travel_is_refused() -> None:
    with pytest.raises(RefusedRow, match="object"):
        row_of(Event("1", "order", object()), 0, UNIT_NS)


def test_an_event_larger_than_any_store_takes_is_refused() -> None:
    with mmap.mmap(-1, PAYLOAD_BYTES_MAX + 1) as large, memoryview(large) as data:  # Memory that nobody touches.
        for encoded in (EncodedData(data, ()), EncodedData(b"\x01", (data,))):
            with pytest.raises(RefusedRow, match=r"a payload of 999,934,\d+ bytes; a store takes 999,934,464"):
                row_of(Event.from_encoded("1", "order", encoded), 0, UNIT_NS)
        del encoded
