"""Encoded events into memory, by the picture in layout.py, and what can be read there without decoding.

The manager, which does not decode, imports this and not payload.py, with all that it needs for values.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventbus_mp.ids import EventId, decode_id
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES, MAGIC

__all__ = ["EncodedEvent", "loaned_offset", "read_id", "write_loaned", "write_payload"]

JOINED_BYTES_MAX = 1 << 16
"""Up to this length a payload is joined and copied once, which is faster than a copy for each part. Of small parts `+`
is a tenth faster than `join`."""

HEADER_AND_PADDING = HEADER_BYTES + ALIGNMENT - 1

_pack_header, _unpack_header = HEADER.pack, HEADER.unpack_from

EncodedEvent = tuple[bytes, bytes, bytes | memoryview, tuple[memoryview, ...], int]
"""An event, ready to be written anywhere: id, envelope, data, buffers, and its payload's length, a multiple of 64.

A plain tuple, which functions unpack: to make it a NamedTuple takes 0.2 us, a fifth of encoding a small event.
"""


def write_payload(view: memoryview, offset: int, encoded: EncodedEvent, sequence: int) -> None:
    """Write the payload to the segment `view` at `offset`, a multiple of 64. The caller has room for its length."""
    name, envelope, data, buffers, length = encoded
    header = _pack_header(MAGIC, len(name), 0, sequence, len(envelope), len(data), len(buffers))
    if length <= JOINED_BYTES_MAX and not buffers:
        payload = header + name + (envelope + data if envelope else data)
        view[offset : offset + len(payload)] = payload
    else:
        position = _write_parts(view, offset, (header, name, envelope, data))
        for buffer in buffers:
            position = _write_parts(view, position, (buffer,))


def write_loaned(view: memoryview, offset: int, encoded: EncodedEvent, sequence: int) -> None:
    """Write a loaned event, but for its buffer, which the producer has filled at `loaned_offset`."""
    name, envelope, data, _, _ = encoded
    header = _pack_header(MAGIC, len(name), 0, sequence, len(envelope), len(data), 1)
    _write_parts(view, offset, (header, name, envelope, data))


def loaned_offset(encoded: EncodedEvent) -> int:
    """The offset of a loaned event's buffer, counted from the event's header."""
    name, envelope, data, _, _ = encoded
    return (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT


def _write_parts(view: memoryview, start: int, parts: Sequence[bytes | memoryview]) -> int:
    """Write the parts one after the other: the next multiple of the alignment after them."""
    position = start
    for part in parts:
        view[position : position + len(part)] = part
        position += len(part)
    return start + ((position - start + ALIGNMENT - 1) & -ALIGNMENT)


def read_id(payload: bytes | memoryview, sequence: int) -> EventId | None:
    """The id of the event at the beginning of `payload`; None when another event, or none, is there."""
    if len(payload) < HEADER_BYTES:
        return None
    magic, id_bytes, _, there, _, _, _ = _unpack_header(payload)
    if magic != MAGIC or there != sequence:
        return None
    try:
        return decode_id(payload[HEADER_BYTES : HEADER_BYTES + id_bytes])
    except ValueError:
        return None  # Its memory was overwritten.
