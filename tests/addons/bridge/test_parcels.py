"""Parcels: to bytes and back, and whatever else the bytes may be."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given

from eventbus_mp.addons.bridge import frame
from eventbus_mp.addons.bridge.parcels import (
    BULK,
    Confirm,
    Entry,
    Events,
    ForeignLayout,
    Have,
    Held,
    Outcomes,
    Parcel,
    ParcelError,
    Result,
    Topics,
    decode,
)
from eventbus_mp.addons.bridge.state import RemoteSubscriber, State, why_unreadable
from tests.addons.bridge.parcels import LIFE, a_state, mutated, one_of_each, parcels, states

HEADER = 16


def remade(parcel: Parcel, fields: list[Any] | None = None, body: bytes | None = None, **header: int) -> bytes:
    """The parcel with another head, another body, or other numbers in front of them."""
    data = parcel.encode()
    magic, version, kind, order, layout, head_bytes, _ = struct.unpack_from("<IBBBBII", data)
    head = data[HEADER : HEADER + head_bytes] if fields is None else msgpack.packb(fields)
    rest = data[HEADER + head_bytes :] if body is None else body
    numbers = {"magic": magic, "version": version, "kind": kind, "order": order, "layout": layout}
    numbers |= {"head_bytes": len(head), "body_bytes": len(rest), **header}
    return struct.pack("<IBBBBII", *numbers.values()) + head + rest


def fields_of(parcel: Parcel) -> list[Any]:
    data = parcel.encode()
    return list(msgpack.unpackb(data[HEADER : HEADER + struct.unpack_from("<I", data, 8)[0]]))


EVENTS, PART, OUTCOMES, CONFIRM, TOPICS, WHO, HAVE = one_of_each()
assert isinstance(EVENTS, Events)


# --- there and back ---


@given(parcels)
def test_what_is_decoded_is_what_was_encoded(parcel: Parcel) -> None:
    assert decode(parcel.encode()) == parcel


@pytest.mark.parametrize("parcel", one_of_each(), ids=lambda parcel: type(parcel).__name__)
def test_one_of_each_kind(parcel: Parcel) -> None:
    assert decode(parcel.encode()) == parcel


@given(states)
def test_a_state_there_and_back(state: State) -> None:
    assert State.decode(state.encode()) == state


def test_payloads_that_are_views_are_copied_into_the_parcel() -> None:
    payload = bytes(range(64)) * 512
    parcel = Events("a", LIFE, "second", ["t"], [[]], [Entry(1, 0, 0, len(payload))], [memoryview(payload)])
    found = decode(parcel.encode())
    assert isinstance(found, Events)
    assert type(found.payloads[0]) is memoryview, "a large payload is not copied once more"
    assert found.payloads[0] == payload


def test_small_payloads_are_bytes() -> None:
    found = decode(EVENTS.encode())
    assert isinstance(found, Events)
    assert [type(payload) for payload in found.payloads] == [bytes] * 3


def test_a_payload_that_is_elsewhere_takes_no_room() -> None:
    parcel = Events("a", LIFE, "second", ["t"], [[]], [Entry(1, 0, 0, 1 << 30, BULK)], [b""])
    assert len(parcel.encode()) < 100
    assert decode(parcel.encode()) == parcel


def test_a_state_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    fields = msgpack.unpackb(a_state().encode()) | {"version": 9, "weather": [1, {"a": 2}]}
    state = State.decode(msgpack.packb(fields))
    assert (state.version, state.is_foreign) == (9, True)
    assert not a_state().is_foreign


# --- what is refused, and what is said ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes are no parcel"),
        (b"{" * 20, "it begins with b'{{{{'"),
        (EVENTS.encode()[:-1], r"its head and body are \d+ and \d+ bytes; it has \d+"),
        (EVENTS.encode() + b"\0", r"its head and body are"),
        (remade(EVENTS, head_bytes=0xFFFFFFFF), "its head and body are 4294967295 and"),
        (remade(EVENTS, kind=99), "of kind 99, which this version does not know"),
        (remade(WHO, fields=["a"]), "the head of a question has 1 fields, not 3"),
        (remade(WHO, fields=[1, LIFE, 1]), "its host is a int, not a text"),
        (remade(WHO, fields=["", LIFE, 1]), "its host has 0 characters; 1 to 255"),
        (remade(WHO, fields=["a", b"short", 1]), "its life is 5 bytes long; 8 to 8"),
        (remade(WHO, fields=["a", LIFE], body=b"x"), "it has a body of 1 bytes"),
        (remade(TOPICS, fields=["a", "order"]), "its topics are a str, not a list"),
        (remade(TOPICS, fields=["a", ["a\nb"]]), r"its topics 'a\\nb' has a control character"),
        (remade(TOPICS, fields=["a", ["t" * 256]]), "its topics has 256 characters"),
        (remade(CONFIRM, body=b"1234567"), "its body of 7 bytes is not whole numbers of 8"),
        (remade(OUTCOMES, body=bytes(8)), "its head speaks of 6 numbers; its body has 1"),
        (remade(HAVE, fields=["b", LIFE, 1, [["n", b"", 3]]], body=bytes(24)), "are 3 numbers, and no pairs"),
        (remade(HAVE, fields=["b", LIFE, 1, [["n", b"", 2]]], body=bytes(16)), "have an empty range"),
        (remade(HAVE, fields=["b", LIFE, 1, [["n", b"", 2]]], body=b"\xff" * 16), "go beyond 64 bits"),
        (remade(HAVE, fields=["b", LIFE, 1, [["n", "", 0]]], body=b""), "the config in what it has is a str, not"),
        (remade(HAVE, fields=["b", LIFE, 1, [["n", b"", -2]]], body=b""), "the count in what it has is -2"),
    ],
)
def test_what_is_no_parcel_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ParcelError, match=text):
        decode(data)


def with_field(parcel: Parcel, at: int, value: Any) -> bytes:
    fields = fields_of(parcel)
    fields[at] = value
    return remade(parcel, fields)


def with_entries(*entries: tuple[int, ...], topics: int = 1, body: bytes | None = None) -> bytes:
    """Events whose entries are what they are."""
    of_topics = [f"t{number}" for number in range(topics)]
    entries_of = [Entry(*entry) for entry in entries]
    payloads = [bytes(0) for _ in entries]
    data = Events("a", LIFE, "second", of_topics, [[]], entries_of, payloads)
    return data.encode() if body is None else remade(data, body=data.encode()[-24 * len(entries) :] + body)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (with_field(EVENTS, 5, 1 << 40), "its number of entries is 1099511627776"),
        (with_field(EVENTS, 5, True), "its number of entries is a bool"),
        (with_field(EVENTS, 2, "x" * 21), "its time unit has 21 characters"),
        (with_field(EVENTS, 4, [[["bill"]], []]), "its target sets has 1 fields, not 2"),
        (with_field(EVENTS, 4, [[["bill", b"c" * 70_000]], []]), "the config in its target sets is 70000 bytes"),
        (with_entries((1, 1, 0, 64)), "an entry names topic 1 of 1"),
        (with_entries((1, 0, 7, 64)), "an entry names target set 7 of 1"),
        (with_entries((1, 0, 0, 64, 8)), "an entry has the flags 0x8"),
        (with_entries((1, 0, 0, 65)), "a payload is 65 bytes long"),
        (with_entries((1, 0, 0, 0)), "a payload is 0 bytes long"),
        (with_entries((1, 0, 0, 1 << 60, BULK)), "a payload is 1152921504606846976 bytes long"),
        (with_entries((1, 0, 0, 64)), "its payloads are 64 bytes long; 0 are there"),
        (with_entries((1, 0, 0, 1 << 40)), "its payloads are 1099511627776 bytes long; 0 are there"),
        (with_entries((1, 0, 0, 64), body=bytes(128)), "its payloads are 64 bytes long; 128 are there"),
        (with_entries((1, 0, 0, 64, BULK), body=bytes(64)), "its payloads are 0 bytes long; 64 are there"),
    ],
)
def test_events_are_refused_if_anything_in_them_is_wrong(data: bytes, text: str) -> None:
    with pytest.raises(ParcelError, match=text):
        decode(data)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 0, 128), "part 0 of 0"),
        ((3, 3, 320), "part 3 of 3"),
        ((1, 3, 321), "is 321 bytes long"),
        ((1, 3, 0), "is 0 bytes long"),
        ((1, 3, 1 << 60), "too long"),
        ((1, 3, 256), "part 1 of 3"),
        ((1, 3, 448), "part 1 of 3"),
        ((2, 3, 320), "part 2 of 3"),
        ((0, 1, 256), "part 0 of 1"),
        ((1, 1 << 63, 1 << 40), "part 1 of"),
    ],
)
def test_parts_whose_numbers_do_not_fit_are_refused(numbers: tuple[int, int, int], text: str) -> None:
    fields = fields_of(PART)
    fields[6:9] = numbers
    with pytest.raises(ParcelError, match=text):
        decode(remade(PART, fields, bytes(128)))


@pytest.mark.parametrize("parcel", [EVENTS, PART], ids=["events", "part"])
@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"version": 2}, "a parcel of version 2"),
        ({"order": 1 - frame.BYTE_ORDER.count("big")}, "byte order"),
        ({"order": 77}, "byte order 77"),
        ({"layout": frame.LAYOUT + 1}, "of layout 3"),
    ],
)
def test_payloads_of_another_layout_are_refused(parcel: Parcel, header: dict[str, int], text: str) -> None:
    with pytest.raises(ForeignLayout, match=text):
        decode(remade(parcel, **header))


@pytest.mark.parametrize("parcel", [OUTCOMES, CONFIRM, TOPICS, WHO, HAVE], ids=lambda parcel: type(parcel).__name__)
def test_parcels_without_payloads_are_read_whatever_the_layout(parcel: Parcel) -> None:
    assert decode(remade(parcel, order=1, layout=77)) == parcel


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"host": None}, "its host is a NoneType"),
        ({"life": b"x"}, "its life is 1 bytes long"),
        ({"byte_order": "middle"}, "its byte order is 'middle', which is not one of little, big"),
        ({"subscribers": [["bill", b"", ["a"], "everywhere"]]}, "the scope in its subscribers is 'everywhere'"),
        ({"subscribers": [["bill", b"", [1], "host"]]}, "the patterns in its subscribers is a int"),
        ({"bulk": 4711}, "its address is a int"),
        ({"seen_at_ms": 1.5}, "its time is a float"),
    ],
)
def test_a_state_is_refused_if_anything_in_it_is_wrong(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ParcelError, match=text):
        State.decode(msgpack.packb(msgpack.unpackb(a_state().encode()) | change))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\xc1", b"\x81\x90\x01", b"\xdf" + b"\xff" * 4, b"\x80", b"\x80\x80"])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(ParcelError):
        State.decode(data)


# --- what is too much to send ---


@pytest.mark.parametrize(
    ("subscriber", "why"),
    [
        (RemoteSubscriber("bill", b"", ("a",), "host"), None),
        (RemoteSubscriber("b" * 1025, b"", ["a"], "host"), "the name in a subscriber has 1025 characters"),
        (RemoteSubscriber("bill", bytes(70_000), ["a"], "host"), "the config in a subscriber is 70000 bytes long"),
        (RemoteSubscriber("bill", b"", ["a" * 70_000], "host"), "the patterns in a subscriber has 70000 characters"),
    ],
)
def test_a_subscriber_that_no_state_can_have_is_known_before(subscriber: RemoteSubscriber, why: str | None) -> None:
    found = why_unreadable(subscriber)
    assert found == why if why is None else (found or "").startswith(why)


def test_more_topics_than_a_parcel_takes_are_refused_by_the_sender() -> None:
    with pytest.raises(ParcelError, match="20000 topics are too many"):
        Topics("a", ["t"] * 20_000).encode()


def test_a_head_that_nobody_would_read_is_refused_by_the_sender() -> None:
    results = [Result("bill", b"", "skipped", "r" * 1000, [1, 1])] * 2000
    with pytest.raises(ParcelError, match="too long; 1048576 are allowed: send it in pieces"):
        Outcomes("a", LIFE, LIFE, 1, results).encode()


# --- hostile ones ---


def nested(depth: int) -> bytes:
    """Lists in lists, each of which says that it has thousands of items."""
    return b"\xdc\x3f\xff" * depth


@pytest.mark.parametrize(
    "head",
    [
        nested(100),
        nested(100_000),
        b"\x91" * 900_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc7\xff\x05" + bytes(255),
        b"\xd6\xff" + bytes(4),
        b"\x92\xdc\x3f\xff" + b"\x90" * 0x3FFF + b"\xc0",
        b"\x00" * 1_000_000,
        bytes(2_000_000),
        b"\x92\xa1\xff\xc0",
    ],
    ids=range(12),
)
def test_a_hostile_head_costs_little(head: bytes) -> None:
    data = struct.pack("<IBBBBII", 0x504D4245, frame.VERSION, 6, 0, frame.LAYOUT, len(head), 0) + head
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ParcelError):
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20
    assert time.process_time() - began < 5, "it takes milliseconds"


def test_ranges_of_another_host_are_not_expanded() -> None:
    found = decode(Have("b", LIFE, 1, [Held("bill", b"", [0, 1 << 63] * 1000)]).encode())
    assert isinstance(found, Have)
    assert len(found.held[0].ranges) == 2000


def fuzz(rounds: int, seed: int) -> None:
    """Bytes that are almost parcels, or nothing at all, are decoded or refused."""
    rng = random.Random(seed)
    good = [parcel.encode() for parcel in one_of_each()]
    state = a_state().encode()
    refused = 0
    for number in range(rounds):
        data = mutated(rng, rng.choice(good)) if number % 4 else good[0][: rng.randrange(16)] + rng.randbytes(90)
        try:
            assert decode(data).encode()
        except ParcelError:
            refused += 1
        try:
            assert State.decode(mutated(rng, state)).encode()
        except ParcelError:
            refused += 1
    assert refused > rounds // 2


def test_wrong_bytes_are_decoded_or_refused() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    fuzz(4_000, seed)


@pytest.mark.soak
def test_a_million_wrong_parcels() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    fuzz(500_000, seed)


def test_each_cut_of_each_parcel_is_refused() -> None:
    for parcel in one_of_each():
        data = parcel.encode()
        for length in range(len(data)):
            with pytest.raises(ParcelError):
                decode(data[:length])


def test_a_confirmation_of_nothing() -> None:
    assert decode(Confirm("a", LIFE, [], 0).encode()) == Confirm("a", LIFE, [], 0)
