"""Payloads that come from elsewhere as they are: whether their lengths make sense, and their number, set anew."""

from __future__ import annotations

import struct

from eventbus_mp.events import ID_BYTES_MAX
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES, MAGIC

__all__ = ["sequence_in", "set_sequence", "why_no_payload"]

_SEQUENCE = struct.Struct("=Q")
_SEQUENCE_AT = 8


def why_no_payload(block: bytes | memoryview) -> str:
    """What is wrong with the lengths in a block that is said to be a payload; empty: nothing. It is not decoded."""
    length = len(block)
    if length < ALIGNMENT or length % ALIGNMENT:
        return f"{length} bytes are not a multiple of {ALIGNMENT}"
    magic, id_bytes, zero, _, envelope_bytes, data_bytes, pieces = HEADER.unpack_from(block)
    end = HEADER_BYTES + id_bytes + envelope_bytes + data_bytes
    if magic != MAGIC or zero:
        return "it does not begin as a payload does"
    if not 0 < id_bytes <= ID_BYTES_MAX or not data_bytes:
        return f"its id has {id_bytes} bytes, and its data {data_bytes}"
    if end > length or (not pieces and length - end >= ALIGNMENT):
        return f"what is in it takes {end} bytes, and it has {length}"
    return ""


def sequence_in(block: bytes | memoryview) -> int:
    """The number that a payload has."""
    (sequence,) = _SEQUENCE.unpack_from(block, _SEQUENCE_AT)
    return int(sequence)


def set_sequence(view: memoryview, offset: int, sequence: int) -> None:
    """Give the payload at this place another number."""
    _SEQUENCE.pack_into(view, offset + _SEQUENCE_AT, sequence)
