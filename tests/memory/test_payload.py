"""Payloads: written once, read in place, and never taken for another one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.errors import EncodeError, UsageError
from eventbus_mp.events import ID_BYTES_MAX, Event
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES, MAGIC
from eventbus_mp.memory.payload import JOINED_BYTES_MAX, encode_event, read_event, read_id, write_payload

SEQUENCE = (3 << 40) + 7


def written(event, sequence=SEQUENCE):
    encoded = encode_event(event)
    block = bytearray(b"\xff" * encoded[-1])
    write_payload(memoryview(block), 0, encoded, sequence)
    return block


texts = st.none() | st.text()
times = st.none() | st.integers(0, 1 << 62)


@given(st.text(min_size=1, max_size=100), st.binary() | st.text() | st.lists(st.integers()), texts, texts, times, times)
def test_an_event_comes_back_whole(event_id, data, transaction_id, source, initialized_at, occurred_at):
    event = Event(
        event_id,
        "topic",
        data,
        transaction_id=transaction_id,
        source=source,
        initialized_at=initialized_at,
        occurred_at=occurred_at,
        ttl=None if occurred_at is None else 5,
    )
    block = written(event)
    assert read_event(bytes(block), SEQUENCE, "topic") == event
    assert read_event(memoryview(block), SEQUENCE, "topic") == event
    assert read_id(bytes(block), SEQUENCE) == event_id


@pytest.mark.parametrize("nbytes", [0, 1, JOINED_BYTES_MAX - 200, JOINED_BYTES_MAX, 1 << 20])
def test_bytes_of_any_size(nbytes):
    event = Event("id", "topic", b"x" * nbytes)
    assert read_event(memoryview(written(event)), SEQUENCE, "topic").data == event.data


def test_payloads_are_aligned():
    block = written(Event("id", "topic", 1))
    assert len(block) % ALIGNMENT == 0
    assert HEADER.unpack_from(block) == (MAGIC, 2, 0, SEQUENCE, 0, 1, 0)


def test_another_sequence_is_another_event():
    block = bytes(written(Event("id", "topic", 1)))
    assert read_event(block, SEQUENCE + 1, "topic") is None
    assert read_id(block, SEQUENCE + 1) is None


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1])
def test_a_place_that_is_too_short_holds_no_event(length):
    block = bytes(written(Event("id", "topic", [1, 2, 3])))
    assert read_event(block[:length], SEQUENCE, "topic") is None
    assert length >= HEADER_BYTES or read_id(block[:length], SEQUENCE) is None


def test_fresh_memory_holds_no_event():
    assert read_event(bytes(200), 0, "topic") is None
    assert read_id(bytes(200), 0) is None


def test_data_is_a_view_until_it_is_asked_for():
    block = written(Event("id", "topic", {"a": 1}))
    event = read_event(memoryview(block), SEQUENCE, "topic")
    assert isinstance(event.raw, memoryview)
    assert event.data is event.data
    copy = event.copy()
    block[:] = bytes(len(block))
    assert (copy.data, copy.raw) == ({"a": 1}, b"\x81\xa1a\x01")


def test_an_error_names_event_and_path():
    with pytest.raises(EncodeError, match=r"event 'id' of topic 'topic': data\['a'\]\[0\]: <class 'object'>"):
        encode_event(Event("id", "topic", {"a": [object()]}))


def test_an_id_that_is_no_text():
    with pytest.raises(EncodeError, match="not valid unicode"):
        encode_event(Event("\ud800", "topic", 1))


def test_an_id_that_is_too_long():
    encode_event(Event("x" * ID_BYTES_MAX, "topic", 1))
    with pytest.raises(UsageError, match="1026 bytes"):
        encode_event(Event("é" * (ID_BYTES_MAX // 2 + 1), "topic", 1))
