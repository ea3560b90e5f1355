"""The arena fills one span after the other, in ascending order and without holes."""

import sys
import threading

import pytest

from eventbus_mp.geometry import CHUNK_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.memory.arena import LARGE_BYTES, Arena, GrantedSpan
from eventbus_mp.memory.mappings import Mappings

MIB = 1 << 20


@pytest.fixture
def number(make_segment):
    return make_segment(8 * MIB)


@pytest.fixture
def arena(prefix, store):
    mappings = Mappings(prefix, store)
    arena = Arena(mappings, MIB)
    yield arena
    arena.close()
    mappings.clear()


def test_small_events_share_a_span_and_large_ones_do_not(arena):
    assert arena.span_length(1) == arena.span_length(LARGE_BYTES) == MIB
    assert arena.span_length(LARGE_BYTES + 1) == CHUNK_BYTES
    assert arena.span_length(CHUNK_BYTES + 1) == 2 * CHUNK_BYTES
    assert arena.span_length(5 * CHUNK_BYTES) == 5 * CHUNK_BYTES
    assert arena.span_length(16 * MIB + 1) == 18 * MIB
    assert arena.span_length(32 * MIB + 1) == 32 * MIB + CHUNK_BYTES
    assert arena.span_length(SHARED_SPAN_BYTES_MAX) == SHARED_SPAN_BYTES_MAX
    assert arena.span_length(SHARED_SPAN_BYTES_MAX + 1) == SHARED_SPAN_BYTES_MAX + CHUNK_BYTES


def test_without_a_span_there_is_no_room(arena):
    assert arena.reserve(100) is None
    assert arena.reserve(MIB) is None


def test_events_follow_one_another(arena, number):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    slots = [arena.reserve(length) for length in (64, 128, 64)]
    assert [(slot.segment, slot.offset, slot.filled) for slot in slots] == [
        (number, MIB, None),
        (number, MIB + 64, None),
        (number, MIB + 192, None),
    ]


def test_a_full_span_comes_with_the_event_that_found_no_room_in_it(arena, number):
    first, second = GrantedSpan(number, MIB, MIB, False), GrantedSpan(number, 2 * MIB, MIB, False)
    arena.add(first)
    for _ in range(MIB // LARGE_BYTES):
        assert arena.reserve(LARGE_BYTES).filled is None
    assert arena.reserve(64) is None
    arena.add(second)
    slot = arena.reserve(64)
    assert (slot.offset, slot.filled) == (2 * MIB, first)


def test_a_large_event_fills_its_span(arena, number):
    span = GrantedSpan(number, 4 * MIB, MIB, False)
    arena.add(span)
    slot = arena.reserve(MIB)
    assert (slot.offset, slot.filled, arena.stocked(MIB)) == (4 * MIB, span, 0)


def test_a_span_is_backed_before_it_is_written(arena, number, backed_bytes):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    assert backed_bytes(number) == 0
    arena.reserve(64)
    assert backed_bytes(number) == MIB


def test_a_backed_span_is_not_backed_again(arena, number, backed_bytes):
    arena.add(GrantedSpan(number, MIB, MIB, True))
    arena.reserve(64)
    assert backed_bytes(number) == 0


def test_a_span_without_memory_is_given_back(arena, make_segment, more_than_there_is):
    length = more_than_there_is
    number = make_segment(length + MIB)
    arena.add(GrantedSpan(number, 0, length, False))
    assert arena.reserve(length) is None
    assert [span.segment for span in arena.granted()] == [number]
    arena.add(GrantedSpan(99, MIB, MIB, True))
    assert not arena.prepare(MIB)
    useless, refusal = arena.take_useless()
    assert [span.segment for span in useless] == [number, 99]
    assert isinstance(refusal, FileNotFoundError)
    assert arena.take_useless() == ([], None)
    assert arena.granted() == []


def test_a_prepared_span_has_its_memory(arena, number, backed_bytes):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    assert arena.prepare(MIB)
    assert backed_bytes(number) == MIB
    assert [span.backed for span in arena.granted()] == [True]


def test_unused_spans_of_large_events_are_taken_out_of_stock(arena, number):
    shared, kept, unused = (
        GrantedSpan(number, index * MIB, length, False)
        for index, length in enumerate((MIB, CHUNK_BYTES, 2 * CHUNK_BYTES))
    )
    for span in (shared, kept, unused):
        arena.add(span)
    assert arena.take_unused({CHUNK_BYTES}) == [unused]
    assert arena.granted() == [shared, kept]
    assert arena.take_unused(()) == [kept]


def test_no_useless_span_is_lost_between_threads(arena):
    """One thread reserves, and another returns what the kernel refused: each span is returned, and once."""
    count, taken, done = 2000, [], threading.Event()

    def reserve():
        for number in range(count):
            arena.add(GrantedSpan(1000 + number, 0, MIB, True))  # There is no such segment.
            assert arena.reserve(64) is None
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=reserve)
    thread.start()
    while not done.is_set():
        taken += arena.take_useless()[0]
    thread.join()
    sys.setswitchinterval(interval)
    taken += arena.take_useless()[0]
    assert [span.segment for span in taken] == [1000 + number for number in range(count)]


def test_a_closed_arena_has_no_room(arena, number):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    arena.reserve(64)
    arena.close()
    assert arena.reserve(64) is None


def test_a_span_whose_backing_is_interrupted_stays_in_stock(arena, number, monkeypatch):
    """A signal handler raised while the kernel found memory for it, which for a large span takes some time."""
    span = GrantedSpan(number, MIB, MIB, False)
    arena.add(span)

    def interrupt(*_):
        raise KeyboardInterrupt

    for use in (arena.prepare, arena.reserve):
        with monkeypatch.context() as patch:
            patch.setattr(Mappings, "back", interrupt)
            with pytest.raises(KeyboardInterrupt):
                use(MIB)
        assert arena.granted() == [span]
    assert arena.reserve(MIB).offset == MIB
