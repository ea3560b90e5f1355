"""The layout of a payload. Its producer writes all of it, once, before it notifies the event.

    0        4          6      8          16             20           24          28     32
    +--------+----------+------+----------+--------------+------------+-----------+------+-----
    | magic  | id bytes | 0    | sequence | envelope     | data bytes | raw count | 0    | ...
    |        |          |      |          | bytes        |            |           |      |
    +--------+----------+------+----------+--------------+------------+-----------+------+-----
    32: id (UTF-8, or 0xFF and an int of 8 bytes), envelope (msgpack; empty when all its fields are None), data
        (msgpack)
        from the next multiple of 64 on: `raw count` pieces of memory, each at a multiple of 64

No mark says that a payload is whole: the record that announces it is sent after its last byte was written. The buffers
are the raw memory of arrays. The data says where each one begins, counted from the first, how long it is and what it
holds. An event that is sent on as it came has the buffers of the first as one piece.

Payloads and buffers begin at multiples of 64, the length of a cache line. So arrays are aligned for any instruction,
and a header is one cache line, which it shares with no other event.

A span is filled in ascending order, and every multiple of 64 in it is overwritten. So when a span was recycled and
another process fills it, the header of an old payload is overwritten before the rest of it. A reader that nothing
protects therefore compares the sequence number before and after it copies: if both are the expected one, the copy
is what was written.
"""

from __future__ import annotations

import struct

__all__ = ["ALIGNMENT", "HEADER", "HEADER_BYTES", "MAGIC"]

HEADER = struct.Struct("=IHHQIII4x")
HEADER_BYTES = HEADER.size
MAGIC = 0x504D4245
"""`EBMP` in memory order."""
ALIGNMENT = 64
"""Payloads and buffers begin at multiples of this, in bytes. So the lengths of payloads are multiples of it as well."""
