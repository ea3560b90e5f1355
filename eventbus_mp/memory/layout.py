"""The layout of a payload in shared memory. The producer writes all of it, once.

    0        4          6      8          16             20           24          28     32
    +--------+----------+------+----------+--------------+------------+-----------+------+-----
    | magic  | id bytes | 0    | sequence | envelope     | data bytes | raw count | 0    | ...
    |        |          |      |          | bytes        |            |           |      |
    +--------+----------+------+----------+--------------+------------+-----------+------+-----
    32: id (UTF-8), envelope (msgpack, or nothing when all of it is None), data (msgpack)
        from the next multiple of 64 on: a buffer, at multiples of 64, for each of the `raw` ones

The record that tells of a payload comes after the last byte of it, so there is no mark that says it is whole. The
buffers are the raw memory of arrays; the data says where each lies, counted from the first one, how long it is and what
it holds.

Payloads and buffers begin at multiples of 64, a cache line: arrays are aligned for any instruction, and the header is
one line, which nobody shares with another event.

A span is filled in ascending order, and every multiple of 64 in it is overwritten. So whoever reads a place that was
given to somebody else in the meantime finds the header overwritten first: comparing the sequence before and after a
copy tells.
"""

from __future__ import annotations

import struct

from eventbus_mp.geometry import PAYLOAD_ALIGNMENT

__all__ = ["ALIGNMENT", "HEADER", "HEADER_BYTES", "MAGIC"]

HEADER = struct.Struct("=IHHQIII4x")
HEADER_BYTES = HEADER.size
MAGIC = 0x504D4245
"""`EBMP` in memory order."""
ALIGNMENT = PAYLOAD_ALIGNMENT
"""Payloads and buffers begin at multiples of this, and so payloads' lengths are ones."""
