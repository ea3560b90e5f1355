"""Tables of pyarrow, as Arrow's IPC stream. This is the only file that knows pyarrow, which is optional.

As in arrays.py, encoding finds pyarrow in `sys.modules`, and decoding imports it only when the data holds a table.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from eventbus_mp.errors import DecodeError
from eventbus_mp.memory.views import AddBuffer, decode_view, encode_view

__all__ = ["arrow_kind", "decode_record_batch", "decode_table", "encode_arrow", "encode_arrow_buffer"]

_KINDS = ("Buffer", "RecordBatch", "Table")


def arrow_kind(value: Any) -> str | None:
    """The class's name, if the value is a Buffer, a RecordBatch or a Table of pyarrow; None of any other value."""
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is None:
        return None
    kind = type(value)
    # While pyarrow is being imported it may be in `sys.modules` without its classes.
    return next((name for name in _KINDS if kind is getattr(pyarrow, name, None)), None)


def encode_arrow_buffer(value: Any, add: AddBuffer) -> Any:
    """The parts of a pyarrow.Buffer, which comes out as a memoryview."""
    return encode_view(memoryview(value).cast("B"), add)


def encode_arrow(value: Any, add: AddBuffer) -> Any:
    """The parts of a RecordBatch or a Table. Its columns are copied into the stream, and the stream into its place."""
    pyarrow = sys.modules["pyarrow"]
    ipc = importlib.import_module("pyarrow.ipc")
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return encode_view(memoryview(sink.getvalue()).cast("B"), add)


def decode_record_batch(body: Any, raw: memoryview) -> Any:
    """The RecordBatch, whose columns are over `raw`, without a copy.

    Raises:
        DecodeError: pyarrow is not installed here.
    """
    return _open_stream(body, raw).read_next_batch()


def decode_table(body: Any, raw: memoryview) -> Any:
    """The Table, whose columns are over `raw`, without a copy.

    Raises:
        DecodeError: pyarrow is not installed here.
    """
    return _open_stream(body, raw).read_all()


def _open_stream(body: Any, raw: memoryview) -> Any:
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError as cause:
        raise DecodeError(
            "the data holds a table of pyarrow, and pyarrow cannot be imported here: pip install pyarrow"
        ) from cause
    ipc = importlib.import_module("pyarrow.ipc")
    return ipc.open_stream(pyarrow.py_buffer(decode_view(body, raw)))
