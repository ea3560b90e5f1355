"""What goes in comes out, with the same type; what cannot travel is named by its path."""

import datetime
import decimal
import enum
import io
import os
import pathlib
import struct
import subprocess
import sys
import threading
import uuid
import zoneinfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp import register_type
from eventbus_mp.errors import DecodeError, EncodeError
from eventbus_mp.events import Event
from eventbus_mp.memory.codec import MARKED, decode, encode_comparable
from eventbus_mp.memory.payload import encode_event
from eventbus_mp.memory.plain import LEVELS_MAX

OFFSETS = st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23))
ZONES = (
    OFFSETS.map(datetime.timezone)
    | st.builds(datetime.timezone, OFFSETS, st.text(max_size=5))
    | st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]).map(zoneinfo.ZoneInfo)
)


def encode(value):
    return encode_event(Event("id", "topic", value))[2]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | ZONES)
    | st.dates()
    | st.times(timezones=st.none() | ZONES)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
    | st.text().map(pathlib.PurePosixPath)
    | st.text().map(pathlib.Path)
)
HASHABLES = st.recursive(SCALARS, lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner), max_leaves=5)
DATA = st.recursive(
    SCALARS | st.sets(HASHABLES),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(HASHABLES, inner),
    max_leaves=20,
)


def shape(value):
    """The value with the type of every part, for equality that tells 1 from True and a list from a tuple."""
    if isinstance(value, dict):
        return [(shape(key), shape(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(part) for part in value]
    if isinstance(value, set | frozenset):
        return type(value), value, len(value)
    if isinstance(value, datetime.datetime | datetime.time):
        return type(value), value.replace(tzinfo=None), value.fold, repr(value.tzinfo)
    return type(value), value


@given(DATA)
def test_round_trip(value):
    assert shape(decode(encode(value))) == shape(value)


@given(DATA)
def test_it_decodes_from_a_view_as_from_bytes(value):
    assert shape(decode(memoryview(encode(value)))) == shape(value)


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 63) - 1, 10**5000, -(10**5000), 1 << 71, -(1 << 71)],
    ids=["2**64", "-2**63-1", "10**5000", "-10**5000", "2**71", "-2**71"],
)
def test_integers_of_any_size(value):
    assert decode(encode([value])) == [value]


def test_numbers_that_are_none():
    assert str(decode(encode([float("nan"), decimal.Decimal("NaN"), decimal.Decimal("-0.00")]))) == str(
        [float("nan"), decimal.Decimal("NaN"), decimal.Decimal("-0.00")]
    )


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("fold", [0, 1])
def test_the_second_of_two_equal_hours_stays_the_second(fold):
    for zone in (None, BERLIN):
        hour = datetime.datetime(2024, 10, 27, 2, 30, fold=fold, tzinfo=zone)
        got = decode(encode(hour))
        assert (got.fold, got.tzinfo, got) == (fold, zone, hour)


def test_a_zone_stays_the_zone_it_is():
    """A fixed offset would be an hour off half a year later."""
    got = decode(encode(datetime.datetime(2024, 7, 1, tzinfo=BERLIN)))
    assert (got + datetime.timedelta(days=180)).utcoffset() == datetime.timedelta(hours=1)
    assert decode(encode(datetime.time(12, 30, tzinfo=BERLIN))).tzinfo is BERLIN
    named = datetime.timezone(datetime.timedelta(hours=1, microseconds=3), "here")
    assert decode(encode([named, datetime.datetime(2024, 7, 1, tzinfo=named)]))[1].tzname() == "here"
    assert decode(encode(datetime.timezone.utc)) is datetime.timezone.utc


class Zone(datetime.tzinfo):
    def utcoffset(self, moment):
        raise ValueError("no offset")

    tzname = dst = utcoffset


def test_zones_that_cannot_travel():
    with pytest.raises(
        EncodeError, match=r"data\[0\]\.tzinfo: <class '.*Zone'> cannot travel .*; use zoneinfo.ZoneInfo"
    ):
        encode([datetime.datetime(2024, 7, 1, tzinfo=Zone())])
    # The shortest file of a zone: version 1, one type of local time, with an offset of 0 and an empty name.
    file = io.BytesIO(b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 1) + bytes(7))
    with pytest.raises(EncodeError, match=r"data\[0\]: .* was read from a file and has no key"):
        encode((datetime.time(1, tzinfo=zoneinfo.ZoneInfo.from_file(file)),))


def test_a_zone_that_the_reader_does_not_know():
    data = encode(BERLIN).replace(b"Europe/Berlin", b"Nowhere/Never")
    with pytest.raises(DecodeError, match=r"the time zone Nowhere/Never, which .* does not know: pip install tzdata"):
        decode(data)


class Unknown:
    def __repr__(self):
        return "Unknown()"


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


UNKNOWN = Unknown()
NESTED_TOO_DEEPLY: list = []
NESTED_TOO_DEEPLY.append(NESTED_TOO_DEEPLY)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (UNKNOWN, "data: <class"),
        ({"items": [1, 2, 3, UNKNOWN]}, r"data\['items'\]\[3\]: <class"),
        ([{"a": (1, {UNKNOWN})}], r"data\[0\]\['a'\]\[1\]\[0\]: <class"),
        ({(1, UNKNOWN): 2}, r"data \(key \(1, Unknown\(\)\)\)\[1\]: <class"),
        (Colour.RED, "data: <enum 'Colour'>"),
        ({"t": Text("x")}, r"data\['t'\]: <class"),
        ({"lock": threading.Lock()}, r"data\['lock'\]: <class '_thread.lock'>"),
        (["\ud800"], r"data\[0\]: text that is not valid unicode"),
        (NESTED_TOO_DEEPLY, "data.*: nested too deeply"),
    ],
    ids=str,
)
def test_what_cannot_travel_is_named(value, path):
    with pytest.raises(EncodeError, match=path):
        encode(value)


def nested(depth, value):
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [2_000, 100_000])
@pytest.mark.parametrize("beside", [1, bytearray(3)], ids=["values", "buffers"])
def test_data_that_is_nested_too_deeply(depth, beside):
    """However deep: the error is not a RecursionError, and its text can be read."""
    value = {"x": (nested(depth, 1), beside)}
    with pytest.raises(EncodeError, match=r"data.*: nested too deeply, or within itself$") as caught:
        encode_event(Event("id", "topic", value))
    assert len(str(caught.value)) < 300


def nested_tuples(depth):
    value: object = 1
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize("beside", [1, bytearray(3)], ids=["values", "buffers"])
def test_tuples_within_each_other(beside):
    value = nested_tuples(LEVELS_MAX)
    assert decode(encode(value)) == value
    encode_event(Event("id", "topic", [nested_tuples(LEVELS_MAX - 1), beside]))
    with pytest.raises(EncodeError, match=r"data\[0\].*: nested too deeply, or within itself$"):
        encode_event(Event("id", "topic", [nested_tuples(LEVELS_MAX + 2), beside]))


IN_A_SMALL_STACK = """
import sys, threading
from eventbus_mp.events import Event
from eventbus_mp.memory.codec import decode
from eventbus_mp.memory.payload import encode_event

def nested(kind, depth, bottom):
    for _ in range(depth):
        bottom = kind([bottom]) if kind is not dict else {"x": bottom}
    return bottom

def work():
    for kind in (tuple, frozenset, list, dict):
        value = nested(kind, 250, (1,))
        assert decode(encode_event(Event("id", "topic", value))[2]) == value
    read.append(decode(deepest))

deepest = encode_event(Event("id", "topic", nested(list, 500, 1)))[2]
read = []
threading.stack_size(int(sys.argv[1]))
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert read
"""


@pytest.mark.parametrize("stack_kib", [128, 256, 1024])
def test_the_deepest_data_is_read_with_a_small_stack(stack_kib):
    """In a process of its own, which a stack that is too small would end by SIGSEGV."""
    subprocess.run([sys.executable, "-c", IN_A_SMALL_STACK, str(stack_kib << 10)], check=True, timeout=60)


def test_what_another_program_has_nested():
    """Bytes that were written over may hold any number of levels: reading them is an error and no crash."""
    with pytest.raises(msgpack.StackError):
        decode(bytes([MARKED]) + b"\x91" * 100_000)
    data = b"\x01"
    for _ in range(1_000):
        data = msgpack.packb(msgpack.ExtType(0, data))
    assert type(decode(data)) is msgpack.ExtType


def test_a_mark_of_another_version():
    with pytest.raises(DecodeError, match="a value of kind 100, which this version does not know"):
        decode(bytes([MARKED]) + msgpack.packb([1, msgpack.ExtType(100, b"")]))


@pytest.mark.parametrize(
    "value",
    [
        msgpack.ExtType(0, b""),
        msgpack.ExtType(64, b"abc"),
        [msgpack.ExtType(0, b""), (1,)],
        (1, msgpack.ExtType(0, b"")),
        msgpack.Timestamp(1, 2),
        (msgpack.Timestamp(1, 2),),
    ],
    ids=repr,
)
def test_msgpack_s_own_types(value):
    got = decode(encode(value))
    assert (type(got), got) == (type(value), value)


@pytest.mark.parametrize(
    "value",
    [{(1, 2): {frozenset({3}): 4}}, {1 << 70: "x", 2: (3,)}, {decimal.Decimal("1.0"): 1}, {uuid.UUID(int=3): [()]}],
    ids=repr,
)
def test_keys_that_msgpack_does_not_have(value):
    assert shape(decode(encode(value))) == shape(value)


def test_a_file_s_name_is_any_bytes():
    path = pathlib.Path("a\udcff/b")
    assert decode(encode([path])) == [path]
    with pytest.raises(EncodeError, match=r"data\[0\]: text that is not valid unicode: .*Path"):
        encode([pathlib.Path("\ud800")])


def test_a_uuid_keeps_whether_it_is_safe():
    for safe in uuid.SafeUUID:
        assert decode(encode(uuid.UUID(int=7, is_safe=safe))).is_safe is safe


def test_a_list_that_another_thread_changes():
    """What runs in between is a registered `encode`, as any other thread's code may."""
    rows: list = []

    class Row:
        def change(self):
            rows.append(Row())
            return 1

    register_type(Row, Row.change, lambda body: "row")
    table = {"before": 1, "rows": rows, "after": [2]}
    for _ in range(10):
        rows.append(Row())
        count = len(rows)
        assert decode(encode(table)) == {"before": 1, "rows": ["row"] * count, "after": [2]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": {"x", "y", "z", 1}}, {"a": {1, "z", "y", "x"}}),
        (({"a": 1, "b": [{"c": 1, "d": 2}]},), ({"b": [{"d": 2, "c": 1}], "a": 1},)),
        (frozenset({frozenset({1, 2}), (3,)}), frozenset({(3,), frozenset({2, 1})})),
        ({(1,): 2, 1 << 70: 3}, {1 << 70: 3, (1,): 2}),
    ],
    ids=repr,
)
def test_equal_values_are_equal_bytes_to_compare(one, other):
    assert one == other
    assert encode_comparable(one) == encode_comparable(other)
    assert decode(encode_comparable(one)) == one


def test_the_order_of_a_set_does_not_matter():
    """It differs from process to process, and from one way to make the set to the other."""
    code = (
        "from eventbus_mp.memory.codec import encode_comparable as e\n"
        "print(e({'x': ({'eu', 'us', 'ap', 'sa', 'af'}, {frozenset({'a', 'b'}): 1, frozenset({'c', 'd'}): 2})}).hex())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_what_cannot_travel_is_named_however_deep():
    with pytest.raises(EncodeError, match=r"data(\[0\]){200}: <class .*Unknown'> cannot travel"):
        encode(nested(200, UNKNOWN))


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


def test_a_key_that_cannot_be_shown():
    with pytest.raises(EncodeError, match=r"data \(key <Unprintable>\): <class .*Unprintable'> cannot travel"):
        encode({Unprintable(): 1})
    with pytest.raises(EncodeError, match=r"data\[<Unprintable>\]|data \(key <Unprintable>\)"):
        encode({Unprintable(): UNKNOWN})


def test_a_failure_leaves_nothing_behind():
    with pytest.raises(EncodeError):
        encode(["x" * 1000, UNKNOWN])
    assert encode(1) == b"\x01"


def test_ids_and_uuids_of_one_process_meet_in_a_set():
    number = uuid.UUID(int=5)
    assert decode(encode({number, "5"})) == {number, "5"}
