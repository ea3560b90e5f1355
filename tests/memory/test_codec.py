"""What goes in comes out, with the same type; what cannot travel is named by its path."""

import datetime
import decimal
import enum
import pathlib
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.errors import EncodeError
from eventbus_mp.events import Event
from eventbus_mp.memory.codec import decode, encode
from eventbus_mp.memory.payload import encode_event

ZONES = st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)).map(datetime.timezone)
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


def test_the_second_of_two_equal_hours_stays_the_second():
    hour = datetime.datetime(2024, 10, 27, 2, 30, fold=1)
    assert decode(encode(hour)).fold == 1


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
    """However deep: the error is no RecursionError, and its text can be read."""
    value = {"x": (nested(depth, 1), beside)}
    with pytest.raises(EncodeError, match=r"data.*: nested too deeply, or within itself$") as caught:
        encode_event(Event("id", "topic", value))
    assert len(str(caught.value)) < 300


def test_what_cannot_travel_is_named_however_deep():
    with pytest.raises(EncodeError, match=r"^data(\[0\]){200}: <class .*Unknown'> cannot travel"):
        encode(nested(200, UNKNOWN))


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


def test_a_key_that_cannot_be_shown():
    with pytest.raises(EncodeError, match=r"^data \(key <Unprintable>\): <class .*Unprintable'> cannot travel"):
        encode({Unprintable(): 1})
    with pytest.raises(EncodeError, match=r"^data\[<Unprintable>\]|^data \(key <Unprintable>\)"):
        encode({Unprintable(): UNKNOWN})


def test_a_failure_leaves_nothing_behind():
    with pytest.raises(EncodeError):
        encode(["x" * 1000, UNKNOWN])
    assert encode(1) == b"\x01"


def test_ids_and_uuids_of_one_process_meet_in_a_set():
    number = uuid.UUID(int=5)
    assert decode(encode({number, "5"})) == {number, "5"}
