"""Streams: however the bytes are cut, the same messages come out; garbage is a ProtocolError and nothing else."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.errors import ProtocolError, UsageError
from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import (
    RECORD_EVENTS,
    Delivered,
    RecordEvent,
    Replied,
    SpanGranted,
    one_record,
    pack_client_event,
)
from eventbus_mp.protocol.decoders import REQUEST_BYTES_MAX, ClientDecoder, ManagerDecoder, encode_request, unpack
from eventbus_mp.protocol.messages import (
    SPAN_NEEDED,
    DeliveriesSettled,
    DeliveriesTaken,
    EventsNotified,
    Outcome,
    SpanLeased,
    SpanReleased,
    SpanSealed,
    SpanWanted,
)
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.protocol.requests import (
    REQUESTS,
    ListSubscribers,
    MarkEvents,
    NameReason,
    RegisterTopic,
    RegisterTopics,
    field_types,
    fits,
)
from tests.protocol.samples import sample_event, sample_fields

LINK = 9
RAWS = [records.pack_notified(1, 2, 300, 64, number % 2, number, number == 3) for number in (1, 2, 3, 4, 6, 7)]
SAMPLE_REQUESTS = [
    *(kind(LINK, number, *sample_fields(kind)) for number, kind in REQUESTS.items()),
    ListSubscribers(LINK, 100, "a"),
    MarkEvents(LINK, 101, "s", b"\xff", "B", 2, "because", [1, (9 << 40) + 5]),
    NameReason(LINK, 102, 64, "because " * 50),
    RegisterTopics(LINK, 103, []),
]
SAMPLE_EVENTS = [sample_event(kind) for kind in RECORD_EVENTS.values()]

TO_MANAGER = b"".join(
    [
        *RAWS[:3],
        records.pack_settled(4, Outcome.COMPLETED, 7, 6),
        records.pack_settled(4, Outcome.COMPLETED, 15, 1),
        records.pack_settled(4, Outcome.SKIPPED, 13, 1),
        records.pack_settled(4, Outcome.SKIPPED, 14, 1, reason=7),
        records.pack_taken(4, 20, 3),
        records.pack_taken(4, 25, 1),
        records.pack_taken(5, 20, 1),
        *map(encode_request, SAMPLE_REQUESTS),
        records.pack_span_wanted(1 << 20, SPAN_NEEDED),
        records.pack_span_sealed(1, 2),
        *RAWS[3:],
        records.pack_span_leased(1, 2, 300, 64, 4),
        records.pack_span_released(4),
    ]
)
TO_PROCESS = b"".join(
    [
        *records.pack_delivered(1, 2, b"".join(RAWS)),
        *records.pack_replied(records.REPLIED, 1, msgpack.packb({"a": [1, None]})),
        *records.pack_replied(records.REPLIED, 3, b"long" * 3000),
        *records.pack_replied(records.REFUSED, 2, msgpack.packb(["UnknownTopic", "text" * 20])),
        *map(pack_client_event, SAMPLE_EVENTS),
    ]
)


def flat(messages):
    """The messages, with runs of notified records taken apart: where a run is cut depends on the pieces."""
    for message in messages:
        if type(message) is EventsNotified:
            count = len(message.topics)
            columns = message.topics, message.segments, message.offsets, message.lengths
            assert {len(message.packed) // RECORD_BYTES, *map(len, columns)} == {count}
            for index, fields in enumerate(zip(*columns, strict=True)):
                raw = message.packed[index * RECORD_BYTES : (index + 1) * RECORD_BYTES]
                awaited = bool(message.awaited >> index & 1)
                deadline_ns = message.deadlines.get(index, 0)
                assert raw == records.pack_notified(*fields, deadline_ns, message.first + index, awaited)
                yield raw
        elif type(message) is DeliveriesSettled:
            for found in message.ranges:
                yield message.subscriber, message.outcome, found, message.reason
        elif type(message) is DeliveriesTaken:
            for found in message.ranges:
                yield message.subscriber, "taken", found
        else:
            yield message


def fed(stream, pieces):
    return [message for piece in pieces for message in flat(stream.feed(piece))]


def test_everything_that_a_process_sends():
    assert fed(ManagerDecoder(LINK), [TO_MANAGER]) == [
        *RAWS[:3],
        (4, 1, (7, 6), 0),
        (4, 1, (15, 1), 0),
        (4, 2, (13, 1), 0),
        (4, 2, (14, 1), 7),
        (4, "taken", (20, 3)),
        (4, "taken", (25, 1)),
        (5, "taken", (20, 1)),
        *SAMPLE_REQUESTS,
        SpanWanted(LINK, 1 << 20, SPAN_NEEDED),
        SpanSealed(LINK, 1, 2),
        *RAWS[3:],
        SpanLeased(LINK, 1, 2, 300, 64, 4),
        SpanReleased(LINK, 4),
    ]


def test_everything_that_the_manager_sends():
    messages = fed(ClientDecoder(), [TO_PROCESS])
    assert messages == [
        Delivered(1, 2, b"".join(RAWS)),
        Replied(1, False, msgpack.packb({"a": [1, None]})),
        Replied(3, False, b"long" * 3000),
        Replied(2, True, msgpack.packb(["UnknownTopic", "text" * 20])),
        *SAMPLE_EVENTS,
    ]
    assert unpack(messages[1].body) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("make", "data"),
    [(lambda: ManagerDecoder(LINK), TO_MANAGER), (ClientDecoder, TO_PROCESS)],
    ids=["to manager", "to process"],
)
def test_cut_at_any_byte_it_is_the_same(make, data):
    whole = fed(make(), [data])
    for cut in range(0, len(data) + 1, 7):
        assert fed(make(), [data[:cut], data[cut:]]) == whole
    assert fed(make(), [data[index : index + 1] for index in range(len(data))]) == whole


@given(st.lists(st.integers(0, len(TO_MANAGER)), max_size=12))
def test_cut_anywhere_any_number_of_times_it_is_the_same(cuts):
    marks = [0, *sorted(cuts), len(TO_MANAGER)]
    pieces = [TO_MANAGER[begin:end] for begin, end in itertools.pairwise(marks)]
    assert fed(ManagerDecoder(LINK), pieces) == fed(ManagerDecoder(LINK), [TO_MANAGER])


kinds = st.integers(0, max(RECORD_EVENTS))
u32 = st.one_of(st.integers(0, 80), st.integers(0, (1 << 32) - 1))
u64 = st.integers(0, (1 << 64) - 1)
random_records = st.lists(st.builds(RECORD.pack, kinds, u32, u32, u32, u32, u32, u64, u64), max_size=8).map(b"".join)


@given(st.one_of(st.binary(max_size=400), random_records, st.tuples(random_records, st.binary()).map(b"".join)))
def test_random_bytes_parse_or_raise_a_protocol_error(data):
    for stream in (ManagerDecoder(LINK), ClientDecoder()):
        try:
            stream.feed(data)
        except ProtocolError:
            pass


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.integers(0, max(REQUESTS) + 3), values.map(msgpack.packb) | st.binary(max_size=60))
def test_random_requests_are_of_the_right_types_or_a_protocol_error(kind, body):
    try:
        [message] = ManagerDecoder(LINK).feed(records.pack_request(kind, 1, body))
    except ProtocolError:
        return
    for name, expected in field_types(kind).items():
        assert fits(getattr(message, name), expected)


def asked(kind, body):
    return records.pack_request(kind.NUMBER, 1, body)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (RECORD.pack(200, 0, 0, 0, 0, 0, 0, 0), "kind 200 does not exist"),
        (RECORD.pack(0, 0, 0, 0, 0, 0, 0, 0), "kind 0 does not exist"),
        (RECORD.pack(records.SETTLED, 9, 0, 0, 1, 0, 0, 0), "outcome 9"),
        (RECORD.pack(records.SETTLED, 1, 0, 0, 0, 0, 0, 0), "0 deliveries"),
        (RECORD.pack(records.SETTLED, 1, 0, 0, 1 << 30, 0, 0, 0), "deliveries were settled at once"),
        (RECORD.pack(records.TAKEN, 0, 1, 0, 0, 0, 0, 0), "0 deliveries were taken at once"),
        (RECORD.pack(records.REQUEST, 0, 0, 0, REQUEST_BYTES_MAX + 1, 0, 0, 0), "is over"),
        (records.pack_request(99, 1, b"\x90"), "request 99 does not exist"),
        (asked(RegisterTopic, b"\xc1"), "not msgpack"),
        (asked(RegisterTopic, b"\x91" * 5000), "not msgpack"),
        (asked(RegisterTopic, msgpack.packb([])), "has 1 fields"),
        (asked(RegisterTopic, msgpack.packb({})), "has 1 fields"),
        (
            asked(RegisterTopic, msgpack.packb([5])),
            "a RegisterTopic has a int where str belongs",
        ),
        (
            asked(RegisterTopics, msgpack.packb([["a", 5]])),
            r"a RegisterTopics has a list where list\[str\] belongs",
        ),
        (
            asked(RegisterTopics, msgpack.packb(["a"])),
            r"a RegisterTopics has a str where list\[str\] belongs",
        ),
    ],
)
def test_what_is_not_the_protocol(data, text):
    with pytest.raises(ProtocolError, match=text):
        ManagerDecoder(LINK).feed(data)


@pytest.mark.parametrize("names", [["a", 5], ("a",), "a"])
def test_what_the_manager_would_refuse_is_not_sent(names):
    with pytest.raises(UsageError, match=r"RegisterTopics: names=.* give a list\[str\]"):
        encode_request(RegisterTopics(LINK, 1, names))


def test_a_kind_that_only_newer_managers_send():
    with pytest.raises(ProtocolError, match="same version"):
        ClientDecoder().feed(RECORD.pack(99, 0, 0, 0, 0, 0, 0, 0))


# --- the registry of records ---


@pytest.mark.parametrize(
    ("kind", "places", "text"),
    [
        (SpanGranted.NUMBER, (1,), f"another kind has number 20; {max(RECORD_EVENTS) + 1} is free"),
        (records.REPLIED, (1,), "another kind has number 18"),
        (99, (1, 2), "argument 2 is longer"),
    ],
)
def test_a_record_that_would_be_misread_is_not_declared(kind, places, text):
    with pytest.raises(ValueError, match=text):

        @one_record(kind, *places)
        class Another(RecordEvent):
            number: int

    assert 99 not in RECORD_EVENTS


def test_an_event_is_made_of_numbers_again_with_their_types():
    [granted] = ClientDecoder().feed(pack_client_event(SpanGranted(1, 1 << 18, 1 << 20, True)))
    assert granted == SpanGranted(1, 1 << 18, 1 << 20, True)
    assert granted.backed is True


# --- the limits ---


def test_the_largest_request_passes():
    body = msgpack.packb(["x" * (REQUEST_BYTES_MAX - 6)])
    assert len(body) == REQUEST_BYTES_MAX
    [message] = ManagerDecoder(LINK).feed(asked(RegisterTopic, body))
    assert len(message.name) == REQUEST_BYTES_MAX - 6


def test_a_record_begins_at_a_multiple_of_40():
    assert len(TO_MANAGER) % RECORD_BYTES == len(TO_PROCESS) % RECORD_BYTES == 0
