"""What travels beside the msgpack: arrays and buffers, written once, raw and aligned, and read in place.

Here is the list of them. Each kind has a file of its own: views.py, arrays.py (numpy), tables.py (pyarrow).
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from eventbus_mp.memory.arrays import (
    decode_array,
    decode_scalar,
    describe_dtype,
    encode_array,
    encode_scalar,
    is_array,
    is_scalar,
    numpy_for_loans,
)
from eventbus_mp.memory.layout import ALIGNMENT
from eventbus_mp.memory.tables import arrow_kind, decode_record_batch, decode_table, encode_arrow, encode_arrow_buffer
from eventbus_mp.memory.views import AddBuffer, decode_view, encode_view

__all__ = [
    "BUFFER_DECODERS",
    "Beside",
    "Buffers",
    "LoanedBuffer",
    "find_buffer_encoder",
    "holds_buffers",
    "loaned_array",
    "loaned_view",
    "numpy_for_loans",
]

Buffers = tuple[memoryview, ...]
"""Flat bytes that are written beside the data, each at the next multiple of `ALIGNMENT`."""
BufferEncoder = Callable[[Any, AddBuffer], list[Any]]
"""Makes a new list of the value's parts, and adds its memory beside the data."""
BufferDecoder = Callable[[Any, memoryview], Any]
"""Makes the value again, from the parts and the memory beside the data."""

VIEW, NDARRAY, NUMPY_SCALAR, RECORD_BATCH, TABLE = range(32, 37)
"""Codes on the wire: append, never reorder."""


class Beside:
    """The memory that has to be written beside the data so far. Until then it is the user's."""

    __slots__ = ("_end", "pieces")

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []
        self._end = 0

    def add(self, buffer: memoryview) -> int:
        """Note a buffer: the offset that it will have there."""
        offset = self._end
        self.pieces.append(buffer)
        self._end = (offset + len(buffer) + ALIGNMENT - 1) & -ALIGNMENT
        return offset

    def release(self) -> None:
        """Let go of the user's memory, which can then be resized."""
        for piece in self.pieces:
            piece.release()
        self.pieces.clear()
        self._end = 0


class LoanedBuffer(NamedTuple):
    """Data of an event that is one buffer, which the producer fills in place: its parts only, without the memory."""

    code: int
    body: list[Any]


def loaned_view(nbytes: int) -> LoanedBuffer:
    """A loan that is read as a memoryview of `nbytes` bytes."""
    return LoanedBuffer(VIEW, [0, nbytes])


def loaned_array(shape: Sequence[int], dtype: Any) -> LoanedBuffer:
    """A loan that is read as an ndarray; `dtype` is a numpy.dtype.

    Raises:
        TypeError: The dtype cannot travel.
    """
    return LoanedBuffer(NDARRAY, [0, describe_dtype(dtype), False, *shape])


def find_buffer_encoder(value: Any) -> tuple[int, BufferEncoder] | None:
    """The code and the encoder of a value that is, or holds, raw memory; None of any other value.

    Raises:
        TypeError: It is of a subclass that does not travel; the text says what to do.
    """
    kind = type(value)
    if kind is memoryview or kind is bytearray or kind is array.array:
        return VIEW, encode_view
    if kind is LoanedBuffer:
        return value.code, _encode_loaned
    if is_array(value):
        return NDARRAY, encode_array
    if is_scalar(value):
        return NUMPY_SCALAR, encode_scalar
    name = arrow_kind(value)
    return _ARROW_ENCODERS[name] if name is not None else None


_RAW = {memoryview, bytearray}
_NO_LEAVES = frozenset((*_RAW, dict, list))


def holds_buffers(value: Any) -> bool:
    """Whether a memoryview or a bytearray is anywhere in `value`, which msgpack has packed.

    It goes down level by level: to collect the types of a whole level takes a third of the time that a loop takes. Keys
    of dicts are left alone: msgpack makes them bytes, which are equal to them and find the same entries.
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
        # A list of ours, for another thread may change theirs.
        level = list(below[0] if len(below) == 1 else chain.from_iterable(below))
        kinds = set(map(type, level))
    return False


def _encode_loaned(value: Any, add: AddBuffer) -> list[Any]:
    return list(value.body)


_ARROW_ENCODERS: dict[str, tuple[int, BufferEncoder]] = {
    "Buffer": (VIEW, encode_arrow_buffer),
    "RecordBatch": (RECORD_BATCH, encode_arrow),
    "Table": (TABLE, encode_arrow),
}

BUFFER_DECODERS: dict[int, BufferDecoder] = {
    VIEW: decode_view,
    NDARRAY: decode_array,
    NUMPY_SCALAR: decode_scalar,
    RECORD_BATCH: decode_record_batch,
    TABLE: decode_table,
}
