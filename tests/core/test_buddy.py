"""The buddy allocator: what is taken does not overlap, what is put back merges, and only whole blocks are found."""

from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.core.allocator.buddy import BuddyAllocator, order_of

CHUNKS = 16


def filled(*segments):
    allocator = BuddyAllocator(CHUNKS)
    for segment in segments or (1,):
        allocator.put(segment, 0, CHUNKS)
    return allocator


def test_the_order_is_that_of_the_smallest_block_with_as_many():
    assert [order_of(chunks) for chunks in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]


def test_what_is_not_needed_of_a_block_is_free_at_once():
    allocator = filled()
    assert allocator.take(5) == (1, 0)
    assert dict(allocator) == {(1, 5): 1, (1, 6): 2, (1, 8): 8}


def test_buddies_merge_when_both_are_free():
    allocator = filled()
    places = [allocator.take(1) for _ in range(CHUNKS)]
    assert list(allocator) == []
    for segment, chunk in places[::2] + places[1::2]:
        allocator.put(segment, chunk, chunk + 1)
    assert dict(allocator) == {(1, 0): CHUNKS}


def test_neighbours_that_are_no_buddies_do_not_merge():
    allocator = BuddyAllocator(CHUNKS)
    allocator.put(1, 3, 5)
    assert dict(allocator) == {(1, 3): 1, (1, 4): 1}
    assert not allocator.has(2)
    assert allocator.take(2) is None


def test_no_block_is_larger_than_the_largest():
    allocator = BuddyAllocator(4)
    allocator.put(1, 0, 8)
    assert dict(allocator) == {(1, 0): 4, (1, 4): 4}
    assert not allocator.has(5)


def test_dropped_segments_leave_nothing():
    allocator = filled(1, 2, 3)
    allocator.take(3)
    allocator.drop_segments({1, 3})
    assert {segment for (segment, _), _ in allocator} == {2}


@given(st.lists(st.tuples(st.booleans(), st.integers(1, CHUNKS), st.integers(0, 1 << 16)), max_size=60))
def test_any_order_of_taking_and_putting_back(steps):
    allocator, taken = filled(1, 2), []
    for take_one, chunks, which in steps:
        if take_one:
            found = allocator.has(chunks)
            place = allocator.take(chunks)
            assert (place is not None) == found
            if place is not None:
                taken.append((*place, place[1] + chunks))
        elif taken:
            allocator.put(*taken.pop(which % len(taken)))
        used = [(segment, chunk) for segment, start, stop in taken for chunk in range(start, stop)]
        free = [(segment, chunk + index) for (segment, chunk), size in allocator for index in range(size)]
        assert sorted(used + free) == [(segment, chunk) for segment in (1, 2) for chunk in range(CHUNKS)]
        assert all(chunk % size == 0 for (_, chunk), size in allocator)
    for place in taken:
        allocator.put(*place)
    assert dict(allocator) == {(1, 0): CHUNKS, (2, 0): CHUNKS}
