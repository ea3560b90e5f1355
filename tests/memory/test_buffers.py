"""Raw memory lies beside the data, aligned, and comes out as what it was, read-only and in place."""

import array
import ctypes
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eventbus_mp import DecodeError, EncodeError, Event, UsageError
from eventbus_mp.events import Place
from eventbus_mp.memory.buffers import numpy_for_loans
from eventbus_mp.memory.layout import ALIGNMENT, HEADER
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.payload import encode_event, read_event
from eventbus_mp.memory.written import write_payload

DTYPES = (
    hnp.scalar_dtypes()
    | hnp.array_dtypes(allow_subarrays=True)
    | st.sampled_from(["S5", "U3", "V7", "U0", "q", "g", "G", ">i4", ">f8", "<U2"]).map(np.dtype)
)
ARRAYS = DTYPES.flatmap(lambda dtype: st.binary(min_size=200, max_size=200).map(lambda data: (dtype, data))).flatmap(
    lambda pair: hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4).map(lambda shape: made(*pair, shape))
)


def made(dtype, data, shape):
    """An array of any bytes: also those that the dtype's own values would not have."""
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=int))
    filled = (data * (nbytes // len(data) + 1))[:nbytes]
    return np.ndarray(shape, dtype, buffer=filled)


def through(data, *, in_place=True):
    """The event with `data`, written and read again."""
    encoded = encode_event(Event("id", "topic", data))
    payload = np.full(encoded[-1] + ALIGNMENT, 255, "u1")
    start = -payload.ctypes.data % ALIGNMENT
    view = memoryview(payload)[start : start + encoded[-1]]
    write_payload(view, 0, encoded, 7)
    return read_event(view if in_place else bytes(view), 7, "topic")


def same(got, given_array):
    assert type(got) is np.ndarray
    assert (got.dtype, got.dtype.type, got.shape) == (given_array.dtype, given_array.dtype.type, given_array.shape)
    assert got.dtype.isalignedstruct == given_array.dtype.isalignedstruct
    assert got.tobytes() == given_array.tobytes()
    assert not got.flags.writeable


@given(ARRAYS, st.booleans())
def test_arrays_of_every_dtype_and_shape(value, in_place):
    same(through(value, in_place=in_place).data, value)


@given(ARRAYS, st.data())
def test_arrays_in_every_order(value, data):
    axes = data.draw(st.permutations(range(value.ndim)))
    steps = tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in axes)
    turned = value.transpose(axes)[(..., *steps)]
    got = through([turned]).data[0]
    same(got, turned)
    assert got.flags.c_contiguous or got.flags.f_contiguous


LEAVES = st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.tuples(st.floats(allow_nan=False), st.none())
NESTED: st.SearchStrategy[Any] = st.recursive(
    LEAVES | ARRAYS | st.binary(max_size=100).map(bytearray) | st.binary(max_size=300).map(memoryview),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def equal(got, value):
    if isinstance(value, np.ndarray):
        same(got, value)
    elif isinstance(value, bytearray | memoryview):
        assert type(got) is memoryview
        assert (got.readonly, got.format, got.tobytes()) == (True, "B", bytes(value))
    elif isinstance(value, dict):
        assert list(got) == list(value)
        for key, part in value.items():
            equal(got[key], part)
    elif isinstance(value, list | tuple):
        assert (type(got), len(got)) == (type(value), len(value))
        for part, wanted in zip(got, value, strict=True):
            equal(part, wanted)
    else:
        assert (type(got), got) == (type(value), value)


@given(NESTED, st.booleans())
def test_anywhere_in_the_data(value, in_place):
    event = through(value, in_place=in_place)
    equal(event.data, value)
    equal(event.copy().data, value)


def test_buffers_are_aligned_and_in_place():
    arrays = [np.arange(count, dtype="u1") for count in (1, 64, 65, 0, 3)]
    event = through(arrays)
    addresses = [part.ctypes.data for part in event.data]
    assert [where % ALIGNMENT for where in addresses] == [0] * 5
    assert [later - first for first, later in itertools.pairwise(addresses)] == [64, 64, 128, 0]
    assert event.data[0].base is not None


def test_arrays_of_a_segment_are_aligned_in_place_and_outlive_it(store, prefix, make_segment):
    name = f"{prefix}{make_segment(1 << 20)}"
    view, encoded = store.attach(name), encode_event(Event("id", "topic", [np.arange(100), np.arange(7, dtype="u1")]))
    write_payload(view, 4096, encoded, 7)
    event = read_event(LeaseBook().view(view, Place(1, 1, 4096, encoded[-1], 7), reported=False), 7, "topic")
    numbers, small = event.data
    assert [part.ctypes.data % ALIGNMENT for part in (numbers, small)] == [0, 0]
    view[4096 + encoded[-1] - ALIGNMENT] = 9  # where `small` begins
    assert (small[0], small.flags.writeable) == (9, False)
    store.remove(name)
    del view, event, small
    assert list(numbers) == list(range(100))


def test_the_header_counts_buffers_and_raw_is_without_them():
    encoded = encode_event(Event("id", "topic", [np.zeros(1000), b"x"]))
    payload = bytearray(encoded[-1])
    write_payload(memoryview(payload), 0, encoded, 7)
    assert HEADER.unpack_from(payload)[6] == 1
    event = read_event(memoryview(payload).toreadonly(), 7, "topic")
    assert isinstance(event.encoded.data, memoryview)
    assert len(event.encoded.data) < 100
    assert event.encoded.data.readonly
    assert event.encoded.buffers[0].readonly


def test_a_copy_has_memory_of_its_own():
    payload = bytearray(encode_event(Event("id", "topic", np.arange(10)))[-1])
    write_payload(memoryview(payload), 0, encode_event(Event("id", "topic", np.arange(10))), 7)
    event = read_event(memoryview(payload), 7, "topic")
    data, copy = event.data, event.copy()
    payload[:] = bytes(len(payload))
    assert data.sum() == 0
    assert list(copy.data) == list(range(10))
    assert not copy.data.flags.writeable
    assert copy.data.flags.aligned


SCALARS = [
    np.float64(1.5),
    np.float16(2),
    np.int8(-3),
    np.longlong(3),
    np.bool_(True),
    np.str_("a\0"),
    np.str_(""),
    np.bytes_(b"a\0"),
    np.datetime64("2020-01-01T01", "ns"),
    np.timedelta64("NaT", "D"),
    np.complex64(1j),
    np.longdouble("1.1"),
    np.void(b"abc"),
    np.zeros(1, [("a", "i4"), ("b", "U2")])[0],
]


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_numpy_scalars(value):
    got = through({"x": (value,)}).data["x"][0]
    assert type(got) is type(value)
    assert got.dtype == value.dtype
    assert got.tobytes() == value.tobytes()


def test_numpy_scalars_as_keys():
    assert through({np.int64(3): 1}).data == {np.int64(3): 1}


@pytest.mark.parametrize(
    ("value", "text", "shape"),
    [
        (bytearray(b"abc"), "B", (3,)),
        (bytearray(), "B", (0,)),
        (memoryview(b"abcdef")[::2], "B", (3,)),
        (memoryview(b"abcdef").cast("B", (2, 3)), "B", (2, 3)),
        (array.array("d", [1, 2]), "d", (2,)),
        (array.array("i"), "i", (0,)),
        (memoryview(np.arange(6, dtype="i4").reshape(2, 3).T), "i", (3, 2)),
        (memoryview(np.zeros((0, 3), "i2")), "h", (0, 3)),
        (memoryview(np.zeros((3, 0), "i2")), "h", (0,)),  # an empty view can only have one empty dimension, the first
        (memoryview(np.array(7, "i8")), "l", ()),
    ],
    ids=str,
)
def test_views_keep_format_and_shape(value, text, shape):
    got = through([value]).data[0]
    assert (type(got), got.format, got.shape, got.readonly) == (memoryview, text, shape, True)
    assert got.tobytes() == memoryview(value).tobytes()


def test_bytes_stay_bytes():
    assert type(through([b"abc" * 1000]).data[0]) is bytes


def test_what_may_hold_a_buffer_is_looked_at_only_then():
    # 0xC4 is msgpack's mark for bytes, and one of the bytes of this float.
    value = {"x": [float.fromhex("0x1.8c4c4c4c4c4c4p+0")] * 100, "y": ({1, 2}, [{"z": 0xC4C5C6}])}
    assert through(value).data == value


class Matrix(np.ndarray):
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([object()]), "a numpy dtype with Python objects (object) cannot travel; convert it with astype()"),
        (np.zeros(2, [("a", "O")]), "a numpy dtype with Python objects ([('a', 'O')]) cannot travel"),
        (np.ma.array([1]), "is a subclass of ndarray and would come out as one; give value.data and numpy.ma.getmask"),
        (np.zeros(2).view(Matrix), "is a subclass of ndarray and would come out as one; give numpy.asarray(value)"),
        (memoryview((ctypes.c_int * 2)()), "<class 'memoryview'> of format '<i' cannot travel; cast it to a native"),
    ],
    ids=str,
)
def test_what_cannot_travel_is_named(value, text):
    with pytest.raises(EncodeError) as caught:
        encode_event(Event("id", "topic", {"x": [1, (value,)]}))
    assert str(caught.value).startswith("event 'id' of topic 'topic': data['x'][1][0]: ")
    assert text in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_array_of_text():
    with pytest.raises(EncodeError, match=r"<class 'array\.array'> of format '[uw]' cannot travel; cast"):
        encode_event(Event("id", "topic", array.array("u", "ab")))


def test_a_buffer_in_the_envelope():
    with pytest.raises(EncodeError, match=r"Event.source: <class 'bytearray'> travels only in data"):
        encode_event(Event("id", "topic", np.zeros(1), source=bytearray(3)))
    with pytest.raises(EncodeError, match=r"event 'id' of topic 'topic': Event.source: <class 'object'> cannot travel"):
        encode_event(Event("id", "topic", 1, source=object()))


def test_numpy_is_not_imported_for_those_who_do_not_use_it():
    code = (
        "import sys, array\nfrom eventbus_mp import Event\nfrom eventbus_mp.memory.payload import *\n"
        "encode_event(Event('i', 't', [bytearray(3), memoryview(b'x'), array.array('i')]))\n"
        "try:\n    encode_event(Event('i', 't', object()))\nexcept ValueError:\n    pass\n"
        "assert not {'numpy', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_reading_arrays_where_numpy_is_not_installed(monkeypatch):
    events = [through([np.zeros(3)]), through([np.int8(3)])]
    monkeypatch.setitem(sys.modules, "numpy", None)
    for event in events:
        with pytest.raises(DecodeError, match="and numpy cannot be imported here: pip install numpy"):
            event.data  # noqa: B018
    with pytest.raises(UsageError, match=r"needs the package numpy, .* pip install 'eventbus-mp\[numpy\]'"):
        numpy_for_loans()


def test_pyarrow():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    batch = table.to_batches()[0]
    got = through({"table": table, "batches": [batch], "buffer": pyarrow.py_buffer(b"hello")}).data
    assert type(got["table"]) is pyarrow.Table
    assert got["table"].equals(table)
    assert type(got["batches"][0]) is pyarrow.RecordBatch
    assert got["batches"][0].equals(batch)
    assert got["buffer"] == b"hello"
    assert got["buffer"].readonly
    with pytest.raises(EncodeError, match="cannot travel on the bus"):
        encode_event(Event("id", "topic", pyarrow.array([1])))


DTYPES_WITH_MORE = [
    np.dtype("i4", metadata={"unit": ("m", 1)}),
    np.dtype([("a", np.dtype("f8", metadata={"x": [1]})), ("b", "S3")], metadata={"whole": {2}}),
    np.dtype("c"),
    np.dtype([(("a title", "a"), "i4"), ("b", "U2")]),
    np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [3, 16], "itemsize": 40}),
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype((np.record, [("a", "i1"), ("b", "f8", (2, 3))])),
    np.dtype("M8[25s]"),
    np.dtype(">M8[D]"),
    np.dtype("m8"),
    np.dtype("S0"),
    np.dtype("V0"),
    np.dtype([("a", "S0"), ("b", "i1")]),
]


@pytest.mark.parametrize("dtype", DTYPES_WITH_MORE, ids=repr)
def test_dtypes_with_all_that_they_carry(dtype):
    value = np.ndarray((2,), dtype, buffer=bytes(2 * dtype.itemsize) or None)
    got = through([value]).data[0]
    same(got, value)
    assert described(got.dtype) == described(value.dtype)


def described(dtype):
    """All of a dtype, for a comparison that also sees metadata and titles, which numpy's own passes over."""
    fields = {name: (described(part[0]), *part[1:]) for name, part in dtype.fields.items()} if dtype.fields else None
    shape = (described(dtype.subdtype[0]), dtype.subdtype[1]) if dtype.subdtype else None
    metadata = dict(dtype.metadata) if dtype.metadata else None
    return dtype.str, dtype.char, dtype.type, dtype.isalignedstruct, dtype.itemsize, fields, shape, metadata


def test_metadata_that_cannot_travel():
    with pytest.raises(EncodeError, match="<class 'object'> cannot travel"):
        encode_event(Event("id", "topic", np.zeros(1, np.dtype("i4", metadata={"x": object()}))))


def test_a_dtype_of_another_package():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "int4"):
        with pytest.raises(EncodeError, match="is not one of numpy's own; send the bytes with view"):
            encode_event(Event("id", "topic", [np.zeros(2, getattr(ml_dtypes, name))]))


def test_memoryviews_that_cannot_be_read():
    released = memoryview(b"abc")
    released.release()
    with pytest.raises(EncodeError, match=r"data\[0\]: ValueError: operation forbidden on released memoryview"):
        encode_event(Event("id", "topic", [released]))
