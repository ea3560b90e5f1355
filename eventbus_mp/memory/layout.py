"""The layout of a payload in shared memory. The producer writes all of it, once.

    0        4        8          16       20      24        26      28             32           36       40
    +--------+--------+----------+--------+-------+---------+-------+--------------+------------+--------+-----
    | magic  | commit | sequence | length | topic | id      | 0     | envelope     | data       | raw    | 24 bytes
    |        |        |          | bytes  |       | bytes   |       | bytes        | bytes      | count  | reserved
    +--------+--------+----------+--------+-------+---------+-------+--------------+------------+--------+-----
    64: id (UTF-8), envelope (msgpack), data (msgpack), zeros to a multiple of 8

`commit` is written last: a payload without it was half written by a process that died. `raw` counts out-of-band
buffers after the data, aligned to 64. The reserved bytes are the manager's: the outcome bits of the first 64
subscribers of the event's route.

A span is filled in ascending order and without holes. So whoever reads a place that was given to somebody else in the
meantime finds the header overwritten first: comparing the sequence before and after a copy tells.
"""

from __future__ import annotations

import struct

__all__ = ["ALIGNMENT", "COMMITTED", "HEADER", "HEADER_BYTES", "MAGIC"]

HEADER = struct.Struct("<IIQIIHHIII24x")
HEADER_BYTES = HEADER.size
MAGIC = 0x504D4245
"""`EBMP` in memory order."""
COMMIT_OFFSET = 4
COMMITTED = 1
ALIGNMENT = 8
"""Payloads begin at multiples of this, and so their lengths are ones."""
