"""What travels beside the msgpack: arrays and buffers, raw and aligned, written once and read in place.

numpy and pyarrow are optional. This is the only file that knows them: a value of theirs can only be there when the
program imported them, so encoding finds them in `sys.modules`. Decoding imports one only when the data holds its type.
"""

from __future__ import annotations

import array
import importlib
import math
import operator
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from eventbus_mp.errors import DecodeError, UsageError

__all__ = [
    "BUFFER_DECODERS",
    "LoanedBuffer",
    "Wrapped",
    "find_buffer_encoder",
    "holds_buffers",
    "loaned_array",
    "loaned_view",
    "numpy_for_loans",
    "wrap_buffers",
]

AddBuffer = Callable[[memoryview], int]
"""Takes flat bytes to be written beside the data; their offset there."""
Encoder = Callable[[Any, AddBuffer], Any]
Decoder = Callable[[Any, memoryview], Any]

VIEW, NDARRAY, NUMPY_SCALAR, RECORD_BATCH, TABLE = range(32, 37)
"""Ext codes: append, never reorder."""


class Wrapped:
    """A memoryview or a bytearray, hidden from msgpack, which would take it for bytes."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: memoryview | bytearray) -> None:
        self.buffer = buffer


_RAW = {memoryview, bytearray}
_NO_LEAVES = frozenset((*_RAW, dict, list, tuple, set, frozenset))


def holds_buffers(value: Any) -> bool:
    """Whether a memoryview or a bytearray is anywhere in `value`, which has no cycles.

    It goes down level by level: the types of a level at once cost a third of what a loop over it does.
    """
    level: Any = (value,)
    kinds = {type(value)}
    while not kinds.isdisjoint(_NO_LEAVES):
        if not kinds.isdisjoint(_RAW):
            return True
        below: list[Iterable[Any]] = []
        for kind in kinds & _NO_LEAVES:
            items = level if len(kinds) == 1 else [item for item in level if type(item) is kind]
            below += map(dict.values, items) if kind is dict else items
        level = below[0] if len(below) == 1 else list(chain.from_iterable(below))
        kinds = set(map(type, level))
    return False


def wrap_buffers(value: Any) -> Any:
    """`value` with each memoryview and bytearray in it wrapped; `value` itself when it has none.

    Keys are left alone: msgpack makes them bytes, which look up the same.
    """
    kind = type(value)
    if kind is memoryview or kind is bytearray:
        return Wrapped(value)
    if kind is dict:
        parts = [wrap_buffers(part) for part in value.values()]
        changed = any(map(operator.is_not, parts, value.values()))
        return dict(zip(value, parts, strict=True)) if changed else value
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = [wrap_buffers(part) for part in value]
        return kind(parts) if any(map(operator.is_not, parts, value)) else value
    return value


class LoanedBuffer(NamedTuple):
    """Stands for memory that is alone beside the data and will be filled in place."""

    code: int
    body: list[Any]


def loaned_view(nbytes: int) -> LoanedBuffer:
    return LoanedBuffer(VIEW, [0, nbytes])


def loaned_array(shape: Sequence[int], dtype: Any) -> LoanedBuffer:
    """Of a dtype of numpy's.

    Raises:
        TypeError: It cannot travel.
    """
    return LoanedBuffer(NDARRAY, [0, _describe(dtype), list(shape), False])


def find_buffer_encoder(value: Any) -> tuple[int, Encoder] | None:
    """(ext code, encoder) of a value that is, or holds, raw memory; None when it is none of ours.

    Raises:
        TypeError: A kin of what travels does not, and the text says what to do.
    """
    kind = type(value)
    if kind is Wrapped:
        return VIEW, lambda value, add: _encode_view(value.buffer, add)
    if kind is array.array:
        return VIEW, _encode_view
    if kind is LoanedBuffer:
        return value.code, lambda value, _: value.body
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, getattr(numpy, "generic", ())):
            return NUMPY_SCALAR, _encode_scalar
        if kind is getattr(numpy, "ndarray", None):
            return NDARRAY, _encode_array
        if isinstance(value, getattr(numpy, "ndarray", ())):
            raise TypeError(f"{kind} is a subclass of ndarray and would come out as one; give numpy.asarray(value)")
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None:
        if kind is getattr(pyarrow, "Buffer", None):
            return VIEW, lambda value, add: _encode_view(memoryview(value).cast("B"), add)
        if kind is getattr(pyarrow, "RecordBatch", None):
            return RECORD_BATCH, _encode_arrow
        if kind is getattr(pyarrow, "Table", None):
            return TABLE, _encode_arrow
    return None


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise DecodeError(f"the data holds {what}, and {name} cannot be imported here: pip install {name}") from cause


def numpy_for_loans() -> Any:
    """The numpy module.

    Raises:
        UsageError: It is not there.
    """
    try:
        return importlib.import_module("numpy")
    except ImportError as cause:
        raise UsageError("loan(shape=, dtype=) needs numpy: pip install 'eventbus_mp[numpy]'") from cause


# --- memoryview, bytearray, array.array ---


def _encode_view(value: Any, add: AddBuffer) -> Any:
    view = memoryview(value)
    if not _can_cast_to(view.format):
        raise TypeError(f"{type(value)} of format {view.format!r} cannot travel; cast it to a native format, as 'B'")
    if not view.nbytes:
        flat = memoryview(b"")
    elif view.c_contiguous:
        flat = view.cast("B")
    else:
        flat = memoryview(view.tobytes())
    if view.format == "B" and view.ndim == 1:
        return [add(flat), view.nbytes]
    return [add(flat), view.nbytes, view.format, list(view.shape or ())]


@lru_cache(maxsize=64)
def _can_cast_to(text: str) -> bool:
    try:
        memoryview(bytes(struct.calcsize(text))).cast(text)  # type: ignore[call-overload]
    except (ValueError, struct.error):
        return False
    return True


def _decode_view(body: Any, raw: memoryview) -> memoryview:
    offset, nbytes, *kind = body
    flat = raw[offset : offset + nbytes]
    if not kind:
        return flat
    text, shape = kind
    if nbytes:
        return flat.cast(text, shape)  # type: ignore[call-overload, no-any-return, unused-ignore]
    # Nothing to cast. An empty slice has the format; of several dimensions, only an empty first one can be kept.
    inner = shape[1:] if all(shape[1:]) else []
    one: Any = memoryview(bytes(struct.calcsize(text) * math.prod(inner)))
    return one.cast(text, [1, *inner])[:0]  # type: ignore[no-any-return]


# --- numpy ---


def _encode_array(value: Any, add: AddBuffer) -> Any:
    dtype = _describe(value.dtype)
    by_columns = value.flags.f_contiguous and not value.flags.c_contiguous
    if not value.nbytes:
        flat = memoryview(b"")
    else:
        # What is not contiguous is gathered first; the rest is copied once, into its place. The bytes of a
        # datetime64 or a structured array are no buffer for Python, hence the uint8.
        rows = sys.modules["numpy"].ascontiguousarray(value.T if by_columns else value)
        flat = memoryview(rows.reshape(-1).view("uint8"))
    return [add(flat), dtype, list(value.shape), by_columns]


def _decode_array(body: Any, raw: memoryview) -> Any:
    numpy = _package("numpy", "a numpy.ndarray")
    offset, dtype, shape, by_columns = body
    order = "F" if by_columns else "C"
    # Over an array that is read-only for good: for a bare memoryview, numpy looks through to the writable mapping below
    # it, and lets the user set `writeable`.
    buffer = numpy.asarray(raw)
    return numpy.ndarray(shape, _make_dtype(numpy, dtype), buffer=buffer, offset=offset, order=order)


def _encode_scalar(value: Any, add: AddBuffer) -> Any:
    dtype = value.dtype
    if type(value) is not dtype.type:
        raise TypeError(f"{type(value)} is a subclass of {dtype.type} and would come out as one; convert it")
    if dtype.kind in "SU":  # An array would lose zeros at the end.
        return [dtype.kind, bytes(value) if dtype.kind == "S" else str.__str__(value)]
    return [_describe(dtype), value.tobytes()]


def _decode_scalar(body: Any, raw: memoryview) -> Any:
    numpy = _package("numpy", "a numpy scalar")
    dtype, data = body
    if dtype == "S":
        return numpy.bytes_(data)
    if dtype == "U":
        return numpy.str_(data)
    return numpy.ndarray((), _make_dtype(numpy, dtype), buffer=data)[()]


def _describe(dtype: Any) -> Any:
    """A dtype as text or, when it has fields, as a list.

    Raises:
        TypeError: It holds Python objects, or is of a kind that numpy itself does not know.
    """
    numpy = sys.modules["numpy"]
    if dtype.hasobject:
        raise TypeError(
            f"a numpy dtype with Python objects ({dtype}) cannot travel; convert it with astype() or tolist()"
        )
    if dtype.names is not None:
        parts = [dtype.fields[name] for name in dtype.names]
        formats, offsets = [_describe(part[0]) for part in parts], [part[1] for part in parts]
        titles = [part[2] if len(part) > 2 else None for part in parts]
        is_record = dtype.type is numpy.record
        return [list(dtype.names), formats, offsets, titles, dtype.itemsize, dtype.isalignedstruct, is_record]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_describe(base), list(shape)]
    # 'l' and 'q' are two types of one size; a `str` would make them one.
    text = dtype.byteorder + dtype.char if dtype.kind in "biufc" else dtype.str
    if numpy.dtype(text) != dtype:
        raise TypeError(f"numpy dtype {dtype!r} is not one of numpy's own; send the bytes with view('uint8')")
    return text


def _make_dtype(numpy: Any, described: Any) -> Any:
    if isinstance(described, str):
        return numpy.dtype(described)
    if len(described) == 2:
        base, shape = described
        return numpy.dtype((_make_dtype(numpy, base), tuple(shape)))
    names, formats, offsets, titles, itemsize, aligned, is_record = described
    fields = {"names": names, "formats": [_make_dtype(numpy, part) for part in formats], "offsets": offsets}
    if any(titles):
        fields["titles"] = titles
    dtype = numpy.dtype({**fields, "itemsize": itemsize}, align=aligned)
    return numpy.dtype((numpy.record, dtype)) if is_record else dtype


# --- pyarrow ---


def _encode_arrow(value: Any, add: AddBuffer) -> Any:
    pyarrow = sys.modules["pyarrow"]
    ipc = importlib.import_module("pyarrow.ipc")
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return _encode_view(memoryview(sink.getvalue()).cast("B"), add)


def _decode_record_batch(body: Any, raw: memoryview) -> Any:
    return _open_stream(body, raw).read_next_batch()


def _decode_table(body: Any, raw: memoryview) -> Any:
    return _open_stream(body, raw).read_all()


def _open_stream(body: Any, raw: memoryview) -> Any:
    pyarrow = _package("pyarrow", "a table of pyarrow")
    ipc = importlib.import_module("pyarrow.ipc")
    return ipc.open_stream(pyarrow.py_buffer(_decode_view(body, raw)))


BUFFER_DECODERS: dict[int, Decoder] = {
    VIEW: _decode_view,
    NDARRAY: _decode_array,
    NUMPY_SCALAR: _decode_scalar,
    RECORD_BATCH: _decode_record_batch,
    TABLE: _decode_table,
}
