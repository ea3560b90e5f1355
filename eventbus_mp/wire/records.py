"""The record: 36 bytes, the unit of everything on a pipe.

    0       1        4        8          12       16       20            28
    +-------+--------+--------+----------+--------+--------+-------------+-----------+
    | kind  | 0 0 0  | topic  | segment  | offset | length | deadline_ns | sequence  |   little endian
    +-------+--------+--------+----------+--------+--------+-------------+-----------+

A notified event is one record, and travels on, unchanged, as the shadow. Other kinds use the same fields for their own
numbers, as the functions here name them. Some are followed by more bytes, padded with zeros to whole records, so that
a record always begins at a multiple of 36: what a pipe holds can be split without parsing it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from eventbus_mp.messages import NOTIFIED, NOTIFIED_AWAITED

__all__ = ["RECORD", "RECORD_BYTES", "padded"]

RECORD = struct.Struct("<B3xIIIIQQ")
RECORD_BYTES = RECORD.size

# From a process to the manager. 1 and 2 are NOTIFIED and NOTIFIED_AWAITED.
SETTLED = 3
"""topic: outcome; segment: subscriber; offset: how many further sequences follow; sequence: the first."""
REQUEST = 4
"""topic: index in REQUESTS; length: bytes of msgpack that follow; sequence: request number."""
SPAN_WANTED = 5
"""topic: urgency; length: bytes."""
SPAN_SEALED, SPAN_LEASED, SPAN_RELEASED = 6, 7, 8
"""segment, offset."""

# From the manager to a process.
DELIVERED = 17
"""topic: attempt; segment: subscriber; offset: how many notified records follow."""
REPLIED, REFUSED = 18, 19
"""length: bytes of msgpack that follow; sequence: request number."""
SPAN_GRANTED = 20
"""segment, offset, length; topic: 1 when its pages are backed."""
TOPIC_STALE = 21
"""topic; length: how many events were dropped."""

SEQUENCE = struct.Struct("<Q")


def padded(data: bytes) -> bytes:
    """`data` and zeros up to a whole number of records."""
    return data + bytes(-len(data) % RECORD_BYTES)


def notified(
    topic: int, segment: int, offset: int, length: int, deadline_ns: int, sequence: int, awaited: bool
) -> bytes:
    kind = NOTIFIED_AWAITED if awaited else NOTIFIED
    return RECORD.pack(kind, topic, segment, offset, length, deadline_ns, sequence)


def settled(subscriber: int, outcome: int, sequences: Sequence[int]) -> bytes:
    more = len(sequences) - 1
    head = RECORD.pack(SETTLED, outcome, subscriber, more, 0, 0, sequences[0])
    return head + padded(struct.pack(f"<{more}Q", *sequences[1:])) if more else head


def request(kind: int, number: int, body: bytes) -> bytes:
    return RECORD.pack(REQUEST, kind, 0, 0, len(body), 0, number) + padded(body)


def span_wanted(length: int, urgency: int) -> bytes:
    return RECORD.pack(SPAN_WANTED, urgency, 0, 0, length, 0, 0)


def span_note(kind: int, segment: int, offset: int) -> bytes:
    return RECORD.pack(kind, 0, segment, offset, 0, 0, 0)


def delivered(subscriber: int, attempt: int, raws: Sequence[bytes]) -> bytes:
    return RECORD.pack(DELIVERED, attempt, subscriber, len(raws), 0, 0, 0) + b"".join(raws)


def replied(kind: int, number: int, body: bytes) -> bytes:
    return RECORD.pack(kind, 0, 0, 0, len(body), 0, number) + padded(body)


def span_granted(segment: int, offset: int, length: int, backed: bool) -> bytes:
    return RECORD.pack(SPAN_GRANTED, backed, segment, offset, length, 0, 0)


def topic_stale(topic: int, dropped: int) -> bytes:
    return RECORD.pack(TOPIC_STALE, topic, 0, 0, dropped, 0, 0)


def split(raws: bytes) -> list[bytes]:
    """Whole records, one by one."""
    return [raws[start : start + RECORD_BYTES] for start in range(0, len(raws), RECORD_BYTES)]
