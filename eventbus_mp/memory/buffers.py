"""What travels beside the msgpack: arrays and buffers, written once, raw and aligned, and read in place.

Here is the list of them. Each kind has a file of its own: views.py, arrays.py (numpy), tables.py (pyarrow).
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
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
from eventbus_mp.memory.tables import arrow_kind, decode_record_batch, decode_table, encode_arrow, encode_arrow_buffer
from eventbus_mp.memory.views import AddBuffer, decode_view, encode_view
from eventbus_mp.memory.wrapping import Wrapped

__all__ = [
    "BUFFER_DECODERS",
    "LoanedBuffer",
    "find_buffer_encoder",
    "loaned_array",
    "loaned_view",
    "numpy_for_loans",
]

BufferEncoder = Callable[[Any, AddBuffer], Any]
"""Makes the ext type's body of a value, and adds the value's memory beside the data."""
BufferDecoder = Callable[[Any, memoryview], Any]
"""Makes the value again, from the body and the memory beside the data."""

VIEW, NDARRAY, NUMPY_SCALAR, RECORD_BATCH, TABLE = range(32, 37)
"""Ext codes: append, never reorder."""


class LoanedBuffer(NamedTuple):
    """Data of an event that is one buffer, which the producer fills in place: the body only, without the memory."""

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
    return LoanedBuffer(NDARRAY, [0, describe_dtype(dtype), list(shape), False])


def find_buffer_encoder(value: Any) -> tuple[int, BufferEncoder] | None:
    """The ext code and the encoder of a value that is, or holds, raw memory; None of any other value.

    Raises:
        TypeError: It is of a subclass that does not travel; the text says what to do.
    """
    kind = type(value)
    if kind is Wrapped:
        return VIEW, _encode_wrapped
    if kind is array.array:
        return VIEW, encode_view
    if kind is LoanedBuffer:
        return value.code, _encode_loaned
    if is_array(value):
        return NDARRAY, encode_array
    if is_scalar(value):
        return NUMPY_SCALAR, encode_scalar
    name = arrow_kind(value)
    return _ARROW_ENCODERS[name] if name is not None else None


def _encode_wrapped(value: Any, add: AddBuffer) -> Any:
    return encode_view(value.buffer, add)


def _encode_loaned(value: Any, add: AddBuffer) -> Any:
    return value.body


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
