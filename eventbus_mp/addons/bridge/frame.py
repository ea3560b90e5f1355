"""What all parcels begin with, and the two halves behind it.

    0        4         5      6            7        8             12            16
    +--------+---------+------+------------+--------+-------------+-------------+------+------+
    | magic  | version | kind | byte order | layout | head bytes  | body bytes  | head | body |
    +--------+---------+------+------------+--------+-------------+-------------+------+------+

All numbers are little-endian, on any machine. The byte order (0: little) and the layout are those of payloads, which
are in the body just as they are in shared memory. The head is msgpack, a list of fields.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from eventbus_mp import EncodedData
from eventbus_mp.addons.bridge.fields import ForeignLayout, ParcelError, packed_fields, unpack_bounded

__all__ = ["BYTE_ORDER", "LAYOUT", "VERSION", "Frame", "framed", "opened"]

VERSION = 1
"""Of everything in this folder that travels."""
LAYOUT = EncodedData(b"", ()).format
"""How this version lays payloads out."""
BYTE_ORDER = sys.byteorder

_HEADER = struct.Struct("<IBBBBII")
_MAGIC = 0x504D4245
_BYTE_ORDERS = ("little", "big")
_OURS = _BYTE_ORDERS.index(BYTE_ORDER)


class Frame(NamedTuple):
    """A parcel's parts, of which only the lengths were looked at."""

    kind: int
    byte_order: int
    layout: int
    head: bytes
    body_at: int

    def fields(self) -> Any:
        """The head, decoded.

        Raises:
            ParcelError: It is not msgpack of ours.
        """
        return unpack_bounded(self.head, "its head")

    def check_layout(self) -> None:
        """Refuse payloads that cannot be read here.

        Raises:
            ForeignLayout: They cannot.
        """
        if self.byte_order != _OURS:
            raise ForeignLayout(f"its payloads are of byte order {self.byte_order}; here it is {_OURS} ({BYTE_ORDER})")
        if self.layout != LAYOUT:
            raise ForeignLayout(f"its payloads are of layout {self.layout}; this version of eventbus_mp has {LAYOUT}")


def framed(kind: int, fields: list[Any], body: Iterable[bytes | memoryview], body_bytes: int) -> bytes:
    """A parcel's bytes: each part is copied once."""
    head = packed_fields(fields)
    header = _HEADER.pack(_MAGIC, VERSION, kind, _OURS, LAYOUT, len(head), body_bytes)
    return b"".join((header, head, *body))


def opened(data: bytes) -> Frame:
    """The parts of a parcel.

    Raises:
        ParcelError: It is none, or not whole.
        ForeignLayout: It is of another version.
    """
    if len(data) < _HEADER.size:
        raise ParcelError(f"{len(data)} bytes are no parcel; one has {_HEADER.size} or more")
    magic, version, kind, byte_order, layout, head_bytes, body_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ParcelError(f"it begins with {data[:4]!r}, as no parcel does")
    if version != VERSION:
        raise ForeignLayout(f"it is a parcel of version {version}; this version of eventbus_mp reads {VERSION}")
    body_at = _HEADER.size + head_bytes
    if body_at + body_bytes != len(data):
        raise ParcelError(f"its head and body are {head_bytes} and {body_bytes} bytes; it has {len(data)}")
    return Frame(kind, byte_order, layout, data[_HEADER.size : body_at], body_at)
