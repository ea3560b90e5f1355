"""The record: 40 bytes, the unit of everything on a pipe, in the byte order of the machine.

    0      4       8         12       16       20     24            32         40
    +------+-------+---------+--------+--------+------+-------------+----------+
    | kind | topic | segment | offset | length | crc  | deadline_ns | sequence |
    +------+-------+---------+--------+--------+------+-------------+----------+

A notified event is one record, which travels on unchanged as the shadow. `crc` is the CRC-32 of its id's bytes, by
which the manager, which never sees a payload, finds an event by its id. Two ids may have one CRC: the process that asks
compares the ids in the payloads.

Other kinds use the same fields for their own numbers, as the docstrings of the kinds say. Some are followed by more
bytes, padded with zeros to whole records. So a record always begins at a multiple of 40: what a pipe holds can be split
without parsing it, and a batch of records is a table of 32-bit and of 64-bit numbers, whose columns are slices.
"""

from __future__ import annotations

import struct
import sys

from eventbus_mp.geometry import RECORD_BYTES

__all__ = [
    "KIND_BYTE",
    "RECORD",
    "RECORD_BYTES",
    "pack_delivered",
    "pack_notified",
    "pack_replied",
    "pack_request",
    "pack_settled",
    "pack_span_leased",
    "pack_span_released",
    "pack_span_sealed",
    "pack_span_wanted",
    "pack_taken",
    "padded",
    "without_deadline",
]

RECORD = struct.Struct("=6I2Q")
assert RECORD.size == RECORD_BYTES
KIND, TOPIC, SEGMENT, OFFSET, LENGTH, RESERVED, DEADLINE_NS, SEQUENCE = range(8)
"""Where each field is in an unpacked record."""
ID_CRC = RESERVED
"""Of a notified event: `zlib.crc32` of its id's bytes."""
TOPIC_OFFSET, ID_CRC_OFFSET = 4 * TOPIC, 4 * ID_CRC
"""In bytes from the beginning of a record."""
U32_MAX = (1 << 32) - 1
KIND_BYTE = 0 if sys.byteorder == "little" else 3
"""The byte of a record that has its kind, which is a small number."""

# From a process to the manager.
NOTIFIED = 1
"""An event. Its kind is NOTIFIED plus the flags below, which are not kinds of their own."""
FLAG_AWAITED = 1
"""The producer waits for the final watcher."""
FLAG_TIMED = 2
"""The event has a deadline."""
NOTIFIED_KINDS = bytes(range(NOTIFIED, NOTIFIED + FLAG_AWAITED + FLAG_TIMED + 1))
SETTLED = 5
"""topic: outcome; segment: subscriber; offset: how long a delivery took, in ns, 0: unknown; length: how many sequences
that follow each other; reserved: the number of the reason for a skip (reasons.py); deadline: after how many ns to try
again; sequence: the first of them."""
REQUEST = 6
"""topic: index in REQUESTS; length: bytes of msgpack that follow; sequence: request number."""
SPAN_WANTED = 7
"""topic: urgency; length: bytes. Inside a handler, segment: its subscriber; offset: the topic that it publishes to."""
SPAN_SEALED = 8
"""segment, offset."""
SPAN_LEASED = 9
"""The fields of an event's record."""
SPAN_RELEASED = 10
"""sequence."""
TAKEN = 11
"""segment: subscriber; length: how many sequences that follow each other; sequence: the first of them."""

# From the manager to a process; client_events.py has the other kinds, which are one record each.
DELIVERED = 17
"""topic: attempt; segment: subscriber; offset: how many notified records follow."""
REPLIED, REFUSED = 18, 19
"""length: bytes of msgpack that follow; sequence: request number."""
REPLY_PART = 22
"""length: bytes of a reply that follow, whole records; sequence: request number. More of it comes."""
FRAME_BODY_BYTES = 4096 // RECORD_BYTES * RECORD_BYTES - RECORD_BYTES
"""A frame from the manager, the record and what follows it, has at most `PIPE_BUF` bytes: it is written whole or not
at all."""


def padded(data: bytes) -> bytes:
    """`data` and zeros up to a whole number of records."""
    return data + bytes(-len(data) % RECORD_BYTES)


def pack_notified(
    topic: int, segment: int, offset: int, length: int, deadline_ns: int, sequence: int, awaited: bool, id_crc: int = 0
) -> bytes:
    kind = NOTIFIED + FLAG_AWAITED * awaited + FLAG_TIMED * (deadline_ns > 0)
    return RECORD.pack(kind, topic, segment, offset, length, id_crc, deadline_ns, sequence)


def pack_settled(
    subscriber: int, outcome: int, first: int, count: int, cost_ns: int = 0, reason: int = 0, delay_ns: int = 0
) -> bytes:
    return RECORD.pack(SETTLED, outcome, subscriber, min(cost_ns, U32_MAX), count, reason, delay_ns, first)


def without_deadline(packed: bytes) -> bytes:
    """The record of one notified event, as that of an event which does not expire and is not awaited."""
    _, topic, segment, offset, length, reserved, _, sequence = RECORD.unpack(packed)
    return RECORD.pack(NOTIFIED, topic, segment, offset, length, reserved, 0, sequence)


def pack_taken(subscriber: int, first: int, count: int) -> bytes:
    return RECORD.pack(TAKEN, 0, subscriber, 0, count, 0, 0, first)


def pack_request(kind: int, number: int, body: bytes) -> bytes:
    return RECORD.pack(REQUEST, kind, 0, 0, len(body), 0, 0, number) + padded(body)


def pack_span_wanted(length: int, urgency: int, subscriber: int = 0, topic: int = 0) -> bytes:
    return RECORD.pack(SPAN_WANTED, urgency, subscriber, topic, length, 0, 0, 0)


def pack_span_sealed(segment: int, offset: int) -> bytes:
    return RECORD.pack(SPAN_SEALED, 0, segment, offset, 0, 0, 0, 0)


def pack_span_leased(topic: int, segment: int, offset: int, length: int, sequence: int) -> bytes:
    return RECORD.pack(SPAN_LEASED, topic, segment, offset, length, 0, 0, sequence)


def pack_span_released(sequence: int) -> bytes:
    return RECORD.pack(SPAN_RELEASED, 0, 0, 0, 0, 0, 0, sequence)


def pack_delivered(subscriber: int, attempt: int, packed: bytes) -> list[bytes]:
    """Shadows, in as many frames as they need."""
    if len(packed) <= FRAME_BODY_BYTES:
        return [RECORD.pack(DELIVERED, attempt, subscriber, len(packed) // RECORD_BYTES, 0, 0, 0, 0) + packed]
    parts = _parts(packed)
    return [RECORD.pack(DELIVERED, attempt, subscriber, len(part) // RECORD_BYTES, 0, 0, 0, 0) + part for part in parts]


def pack_replied(kind: int, number: int, body: bytes) -> list[bytes]:
    """A reply, in as many frames as it needs: all but the last are a `REPLY_PART`."""
    *parts, last = _parts(body)
    frames = [RECORD.pack(REPLY_PART, 0, 0, 0, len(part), 0, 0, number) + part for part in parts]
    return [*frames, RECORD.pack(kind, 0, 0, 0, len(last), 0, 0, number) + padded(last)]


def _parts(body: bytes) -> list[bytes]:
    if len(body) <= FRAME_BODY_BYTES:
        return [body]
    return [body[start : start + FRAME_BODY_BYTES] for start in range(0, len(body), FRAME_BODY_BYTES)]
