"""Masks beside sets of numbers."""

from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.core.masks import SEQUENCE_BUCKET_EVENTS, bits, lowest

indexes = st.sets(st.integers(0, SEQUENCE_BUCKET_EVENTS - 1))


def mask_of(numbers):
    return sum(1 << number for number in numbers)


@given(indexes)
def test_bits_are_the_indexes_in_order(numbers):
    assert list(bits(mask_of(numbers))) == sorted(numbers)


@given(indexes, st.integers(1, SEQUENCE_BUCKET_EVENTS))
def test_the_lowest_are_the_oldest(numbers, limit):
    if limit < len(numbers):
        assert lowest(mask_of(numbers), limit) == mask_of(sorted(numbers)[:limit])


@given(st.integers(0, 100), st.integers(2, 100), st.data())
def test_the_lowest_of_neighbours(start, count, data):
    limit = data.draw(st.integers(1, count - 1))
    assert lowest(mask_of(range(start, start + count)), limit) == mask_of(range(start, start + limit))
