"""The layout of a payload in shared memory. The producer writes all of it, once.

    0        4        8          16       20      24        26      28             32           36       40
    +--------+--------+----------+--------+-------+---------+-------+--------------+------------+--------+-----
    | magic  | commit | sequence | length | topic | id      | 0     | envelope     | data       | raw    | 24 bytes
    |        |        |          | bytes  |       | bytes   |       | bytes        | bytes      | count  | reserved
    +--------+--------+----------+--------+-------+---------+-------+--------------+------------+--------+-----
    64: id (UTF-8), envelope (msgpack, or nothing when all of it is None), data (msgpack), zeros to a multiple of 64
        buffer, zeros to a multiple of 64, for each of the `raw` buffers

`commit` is written last: a payload without it was half written by a process that died. The buffers are the raw memory
of arrays; the data says where each lies, counted from the first one, how long it is and what it holds. The reserved
bytes are the manager's: the outcome bits of the first 64 subscribers of the event's route.

Payloads and buffers begin at multiples of 64, a cache line: arrays are aligned for any instruction, and the header is
one line, which nobody shares with another event.

A span is filled in ascending order and without holes. So whoever reads a place that was given to somebody else in the
meantime finds the header overwritten first: comparing the sequence before and after a copy tells.
"""

from __future__ import annotations

import struct

__all__ = ["ALIGNMENT", "COMMITTED", "COMMIT_OFFSET", "HEADER", "HEADER_BYTES", "MAGIC"]

HEADER = struct.Struct("<IIQIIHHIII24x")
HEADER_BYTES = HEADER.size
MAGIC = 0x504D4245
"""`EBMP` in memory order."""
COMMIT_OFFSET = 4
COMMITTED = 1
ALIGNMENT = 64
"""Payloads and buffers begin at multiples of this, and so payloads' lengths are ones."""
