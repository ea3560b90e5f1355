"""Sequence numbers as flat ranges, and back."""

from __future__ import annotations

from array import array
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.addons.bridge.fields import ParcelError
from eventbus_mp.addons.bridge.ranges import checked_ranges, flat_ranges, packed, pairs_of, sequences_in, unpacked

near = st.lists(st.integers(0, 60) | st.integers((1 << 64) - 60, (1 << 64) - 1), max_size=80)


@given(near)
def test_there_and_back(sequences: list[int]) -> None:
    flat = flat_ranges(sequences)
    assert sequences_in(flat, 80) == sorted(set(sequences))
    assert checked_ranges(flat, "these") == flat
    assert list(unpacked(packed(flat))) == flat


@given(near)
def test_no_two_ranges_touch(sequences: list[int]) -> None:
    pairs = pairs_of(flat_ranges(sequences))
    assert all(first + count < after for (first, count), (after, _) in pairwise(pairs))


@pytest.mark.parametrize(
    ("sequences", "flat"),
    [
        ([], []),
        ([7], [7, 1]),
        ([7, 8, 9], [7, 3]),
        ([7, 9], [7, 1, 9, 1]),
        ([9, 8, 7, 8], [7, 3]),
        ([7, 7, 9], [7, 1, 9, 1]),
        ([1, 1, 3], [1, 1, 3, 1]),
        (array("Q", [5 << 40, (5 << 40) + 1, 6 << 40]), [5 << 40, 2, 6 << 40, 1]),
    ],
)
def test_the_ranges_of(sequences: list[int], flat: list[int]) -> None:
    assert flat_ranges(sequences) == flat


def test_no_more_than_is_allowed_is_expanded() -> None:
    assert sequences_in([1, 5], 5) == [1, 2, 3, 4, 5]
    with pytest.raises(ParcelError, match="hold 6 sequence numbers; 5 are allowed"):
        sequences_in([1, 5, 9, 1], 5)
    with pytest.raises(ParcelError, match=f"hold {1 << 63} "):
        sequences_in([0, 1 << 63], 1_000_000)
