"""Sets of events as the bits of one integer.

Bit `i` of a mask stands for the i-th event of a batch. Python's integers have any number of bits, so a set of up to 256
events is one object, and union, difference and size are one operation each, however many events there are.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["SEQUENCE_BUCKET_EVENTS", "SEQUENCE_BUCKET_SHIFT", "bits", "lowest", "runs"]

SEQUENCE_BUCKET_SHIFT = 8
"""Sequence numbers fall into buckets of 2^8. A batch never leaves its bucket: that bounds the length of its masks, and
a sequence number leads to its batch by one look-up."""
SEQUENCE_BUCKET_EVENTS = 1 << SEQUENCE_BUCKET_SHIFT


def bits(mask: int) -> Iterator[int]:
    """The indexes of the events in a mask, the oldest first."""
    while mask:
        low = mask & -mask  # Two's complement: only the lowest bit of a number is also in its negative.
        yield low.bit_length() - 1
        mask ^= low


def lowest(mask: int, limit: int) -> int:
    """The `limit` oldest events of a mask that has more than that."""
    start = (mask & -mask).bit_length() - 1
    block = ((1 << limit) - 1) << start
    if mask & block == block:  # The common case: they follow each other.
        return block
    taken = 0
    for _ in range(limit):
        taken |= (mask ^ taken) & -(mask ^ taken)
    return taken


def runs(mask: int) -> Iterator[tuple[int, int]]:
    """(first index, count) of the events in a mask that follow each other, the oldest first."""
    while mask:
        start = (mask & -mask).bit_length() - 1
        shifted = mask >> start
        count = (~shifted & shifted + 1).bit_length() - 1  # How many ones the number ends with.
        yield start, count
        mask &= ~(((1 << count) - 1) << start)
