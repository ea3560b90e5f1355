"""memoryview, bytearray and array.array: raw memory with a format and a shape, as [offset, length, format, *shape]."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["AddBuffer", "decode_view", "encode_view"]

AddBuffer = Callable[[memoryview], int]
"""Takes flat bytes that will be written beside the data, and returns their offset there."""


def encode_view(value: Any, add: AddBuffer) -> Any:
    """The parts of a value that gives a memoryview. Format and shape are left out for plain bytes.

    Raises:
        TypeError: Its format is one that Python cannot cast bytes to.
    """
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
    return [add(flat), view.nbytes, view.format, *(view.shape or ())]


@lru_cache(maxsize=64)
def _can_cast_to(text: str) -> bool:
    try:
        memoryview(bytes(struct.calcsize(text))).cast(text)  # type: ignore[call-overload]
    except (ValueError, struct.error):
        return False
    return True


def decode_view(body: Any, raw: memoryview) -> memoryview:
    """The view over `raw`, without a copy. An array.array and a bytearray come out as views as well."""
    offset, nbytes, *kind = body
    flat = raw[offset : offset + nbytes]
    if not kind:
        return flat
    text, *shape = kind
    if nbytes:
        return flat.cast(text, shape)  # type: ignore[call-overload, no-any-return, unused-ignore]
    # There are no bytes to cast, so an empty slice of one item shows the format. Of several dimensions only the first
    # can be empty in a memoryview.
    inner = shape[1:] if all(shape[1:]) else []
    one: Any = memoryview(bytes(struct.calcsize(text) * math.prod(inner)))
    return one.cast(text, [1, *inner])[:0]  # type: ignore[no-any-return]
