"""Sequence numbers as flat ranges, `[first, count, first, count, ...]`: how outcomes and questions name many events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from operator import add, lt
from struct import pack, unpack

from eventbus_mp.addons.bridge.fields import ParcelError

__all__ = ["NUMBERS_END", "checked_ranges", "flat_ranges", "packed", "pairs_of", "sequences_in", "unpacked"]

NUMBERS_END = 1 << 64
"""Sequence numbers, serials and counts are below it."""


def flat_ranges(sequences: Sequence[int]) -> list[int]:
    """The ranges of these sequence numbers, ascending, each number once.

    One range, as of one producer, takes 25 ns a number. Numbers that do not ascend are sorted first.
    """
    if not all(map(lt, sequences, islice(sequences, 1, None))):
        sequences = sorted(set(sequences))
    if not sequences:
        return []
    first, count = sequences[0], len(sequences)
    if sequences[-1] - first == count - 1:
        return [first, count]
    flat: list[int] = []
    behind = first
    for sequence in sequences:
        if sequence != behind:
            flat += (first, behind - first)
            first = sequence
        behind = sequence + 1
    flat += (first, behind - first)
    return flat


def pairs_of(flat: Sequence[int]) -> list[tuple[int, int]]:
    """Flat ranges as pairs (first, count)."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def sequences_in(flat: Sequence[int], at_most: int) -> list[int]:
    """All the sequence numbers in flat ranges.

    Raises:
        ParcelError: There are more than `at_most`. Ranges from another host can name more than memory holds.
    """
    firsts, counts = flat[::2], flat[1::2]
    total = sum(counts)
    if total > at_most:
        raise ParcelError(f"its ranges hold {total} sequence numbers; {at_most} are allowed")
    return list(chain.from_iterable(map(range, firsts, map(add, firsts, counts))))


def checked_ranges(numbers: Sequence[int], what: str) -> Sequence[int]:
    """Numbers of 64 bits, which are whole ranges of sequence numbers.

    Raises:
        ParcelError: A range is not whole, empty, or goes beyond 64 bits.
    """
    if len(numbers) % 2:
        raise ParcelError(f"{what} are {len(numbers)} numbers, and no pairs")
    if numbers:
        firsts, counts = numbers[::2], numbers[1::2]
        if not min(counts):
            raise ParcelError(f"{what} have an empty range")
        if max(map(add, firsts, counts)) > NUMBERS_END:
            raise ParcelError(f"{what} go beyond 64 bits")
    return numbers


def packed(numbers: Iterable[int]) -> bytes:
    """Numbers below `NUMBERS_END`, little-endian, 8 bytes each."""
    values = tuple(numbers)
    return pack(f"<{len(values)}Q", *values)


def unpacked(data: bytes | memoryview) -> tuple[int, ...]:
    """What `packed` made; the length is a multiple of 8."""
    return unpack(f"<{len(data) >> 3}Q", data)
