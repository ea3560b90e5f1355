"""Encoded events: data that is stored or sent on as it came, without decoding it."""

import numpy as np
import pytest

from eventbus_mp import EncodedData, Event, UsageError
from eventbus_mp.errors import DecodeError
from eventbus_mp.memory.layout import ALIGNMENT
from eventbus_mp.memory.payload import encode_event, read_event
from eventbus_mp.memory.written import write_payload

SEQUENCE = (3 << 40) + 7
ENVELOPE = {"transaction_id": 9, "initialized_at": 1, "occurred_at": 2, "source": "s", "ttl": 3, "headers": {"a": "b"}}


def stored(event):
    encoded = encode_event(event)
    payload = bytearray(b"\xff" * encoded[-1])
    write_payload(memoryview(payload), 0, encoded, SEQUENCE)
    return payload


def fetched(event, kind=memoryview):
    return read_event(kind(stored(event)), SEQUENCE, event.topic)


def arrays():
    return {"a": np.arange(100), "b": [np.zeros(3, "f4"), memoryview(b"raw"), np.zeros(0)], "c": "text"}


def same(got, wanted):
    assert (got["a"] == wanted["a"]).all()
    assert (got["b"][0] == wanted["b"][0]).all()
    assert bytes(got["b"][1]) == b"raw"
    assert got["b"][2].size == 0
    assert got["c"] == "text"


@pytest.mark.parametrize("data", [1, "text", b"x" * 20_000, {"a": [None, 1.5]}])
@pytest.mark.parametrize("kind", [memoryview, bytes])
def test_a_fetched_event_is_sent_on_byte_by_byte(data, kind):
    event = Event(7, "topic", data, **ENVELOPE)
    assert stored(fetched(event, kind)) == stored(event)


def test_an_event_that_was_sent_on_keeps_its_arrays():
    event = Event("id", "topic", arrays(), **ENVELOPE)
    again = fetched(fetched(fetched(event)))
    same(again.data, event.data)
    assert again.data["a"].ctypes.data % 8 == 0
    assert [getattr(again, name) for name in ENVELOPE] == list(ENVELOPE.values())


@pytest.mark.parametrize("origin", ["made here", "fetched", "from encoded"])
def test_what_encoded_gives_makes_the_same_event(origin):
    event = Event("id", "topic", arrays(), **ENVELOPE)
    if origin != "made here":
        event = fetched(event)
    if origin == "from encoded":
        event = Event.from_encoded(event.id, "topic", event.encoded)
    encoded = EncodedData(bytes(event.encoded.data), tuple(memoryview(bytes(item)) for item in event.encoded.buffers))
    copy = Event.from_encoded(8, "other", encoded, **ENVELOPE)
    same(copy.data, event.data)
    same(copy.copy().data, event.data)
    there = fetched(copy)
    same(there.data, event.data)
    assert (there.id, there.topic, there.transaction_id, there.headers) == (8, "other", 9, {"a": "b"})


def test_buffers_stay_aligned():
    event = fetched(Event("id", "topic", [np.arange(7, dtype="u1"), np.arange(9)]))
    (piece,) = event.encoded.buffers
    assert len(piece) % ALIGNMENT == 0
    assert piece.readonly
    assert bytes(piece[ALIGNMENT : ALIGNMENT + 72]) == np.arange(9).tobytes()


def test_unknown_types_are_sent_on_without_being_decoded():
    unknown = b"\xc1\x92\x01\xc7\x00\x64"  # A mark that this version does not know.
    event = Event.from_encoded("id", "topic", EncodedData(unknown, ()))
    assert bytes(fetched(fetched(event)).encoded.data) == unknown
    with pytest.raises(DecodeError, match="a value of kind 100"):
        fetched(event).data  # noqa: B018


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (b"\x01", "give \\(data, buffers, format\\)"),
        ((b"\x01", (), 1), "format 1 is not that of this version, 2"),
        (("text", (), 2), "give \\(data, buffers, format\\)"),
        ((b"\x01", ("text",), 2), "give \\(data, buffers, format\\)"),
        (None, "give \\(data, buffers, format\\)"),
    ],
)
def test_what_is_no_encoded_data(encoded, text):
    with pytest.raises(UsageError, match=text):
        Event.from_encoded("id", "topic", encoded)


def test_bytes_that_no_event_had_fail_where_they_are_read():
    event = Event.from_encoded("id", "topic", EncodedData(b"\xc1", ()))
    with pytest.raises(DecodeError, match="cannot be read"):
        fetched(event).data  # noqa: B018
