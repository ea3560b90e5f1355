"""Payloads: written once, read in place, and never taken for another one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.errors import EncodeError, UsageError
from eventbus_mp.events import ID_BYTES_MAX, Event
from eventbus_mp.ids import INT_IDS
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES, MAGIC
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.memory.payload import encode_event, read_event
from eventbus_mp.memory.written import JOINED_BYTES_MAX, read_id, write_payload

SEQUENCE = (3 << 40) + 7


def written(event, sequence=SEQUENCE):
    encoded = encode_event(event)
    payload = bytearray(b"\xff" * encoded[-1])
    write_payload(memoryview(payload), 0, encoded, sequence)
    return payload


texts = st.none() | st.text()
times = st.none() | st.integers(0, 1 << 62)
ids = st.text(min_size=1, max_size=100) | st.integers(INT_IDS[0], INT_IDS[-1])
headers = st.none() | st.dictionaries(st.text(), st.text())
values = st.binary() | st.text() | st.lists(st.integers())


@given(ids, values, st.none() | ids, texts, times, times, headers)
def test_an_event_comes_back_whole(event_id, data, transaction_id, source, initialized_at, occurred_at, headers):
    event = Event(
        event_id,
        "topic",
        data,
        transaction_id=transaction_id,
        source=source,
        initialized_at=initialized_at,
        occurred_at=occurred_at,
        ttl=None if occurred_at is None else 5,
        headers=headers,
    )
    payload = written(event)
    assert read_event(bytes(payload), SEQUENCE, "topic") == event
    assert read_event(memoryview(payload), SEQUENCE, "topic") == event
    found = read_id(bytes(payload), SEQUENCE)
    assert (type(found), found) == (type(event_id), event_id)


@pytest.mark.parametrize("nbytes", [0, 1, JOINED_BYTES_MAX - 200, JOINED_BYTES_MAX, 1 << 20])
def test_bytes_of_any_size(nbytes):
    event = Event("id", "topic", b"x" * nbytes)
    assert read_event(memoryview(written(event)), SEQUENCE, "topic").data == event.data


def test_payloads_are_aligned():
    payload = written(Event("id", "topic", 1))
    assert len(payload) % ALIGNMENT == 0
    assert HEADER.unpack_from(payload) == (MAGIC, 2, 0, SEQUENCE, 0, 1, 0)


def test_another_sequence_is_another_event():
    payload = bytes(written(Event("id", "topic", 1)))
    assert read_event(payload, SEQUENCE + 1, "topic") is None
    assert read_id(payload, SEQUENCE + 1) is None


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1])
def test_a_place_that_is_too_short_holds_no_event(length):
    payload = bytes(written(Event("id", "topic", [1, 2, 3])))
    assert read_event(payload[:length], SEQUENCE, "topic") is None
    assert length >= HEADER_BYTES or read_id(payload[:length], SEQUENCE) is None


def test_fresh_memory_holds_no_event():
    assert read_event(bytes(200), 0, "topic") is None
    assert read_id(bytes(200), 0) is None


def test_data_is_a_view_until_it_is_asked_for():
    payload = written(Event("id", "topic", {"a": 1}))
    event = read_event(memoryview(payload), SEQUENCE, "topic")
    assert isinstance(event.encoded.data, memoryview)
    assert event.data is event.data
    copy = event.copy()
    payload[:] = bytes(len(payload))
    assert (copy.data, copy.encoded.data) == ({"a": 1}, b"\x81\xa1a\x01")


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


def test_what_one_mapping_writes_is_read_through_another(store, prefix, make_segment):
    number = make_segment(1 << 20)
    writer, reader = Mappings(prefix, store), Mappings(prefix, store)
    events = [Event(str(index), "topic", {"n": index, "raw": bytearray([index] * 1000 * index)}) for index in range(20)]
    offset, places = 4096, []
    writer.back(number, offset, 1 << 19)
    for sequence, event in enumerate(events):
        encoded = encode_event(event)
        write_payload(writer[number], offset, encoded, sequence)
        places.append((offset, encoded[-1]))
        offset += encoded[-1]
    for sequence, (event, (offset, length)) in enumerate(zip(events, places, strict=True)):
        found = read_event(reader[number][offset : offset + length].toreadonly(), sequence, "topic")
        assert (found.id, found.data) == (event.id, event.data)
        assert read_id(reader.read(number, offset, 100), sequence) == event.id
        assert read_event(reader[number][offset : offset + length], sequence + 1, "topic") is None
    assert read_id(reader.read(number, 1 << 19, 100), 0) is None
    del found
    writer.clear()
    reader.clear()
