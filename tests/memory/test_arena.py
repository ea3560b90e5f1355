"""The arena fills one span after the other, in ascending order and without holes."""

import pytest

from eventbus_mp.geometry import CHUNK_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.memory import shm
from eventbus_mp.memory.arena import LARGE_BYTES, Arena, GrantedSpan
from eventbus_mp.memory.mappings import Mappings

MIB = 1 << 20


@pytest.fixture
def number(make_segment):
    return make_segment(8 * MIB)


@pytest.fixture
def arena(prefix):
    mappings = Mappings(prefix, shm)
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
    rooms = [arena.reserve(length) for length in (64, 128, 64)]
    assert [(room.segment, room.offset, room.filled) for room in rooms] == [
        (number, MIB, None),
        (number, MIB + 64, None),
        (number, MIB + 192, None),
    ]


def test_a_full_span_is_told_by_the_event_that_found_it_full(arena, number):
    first, second = GrantedSpan(number, MIB, MIB, False), GrantedSpan(number, 2 * MIB, MIB, False)
    arena.add(first)
    for _ in range(MIB // LARGE_BYTES):
        assert arena.reserve(LARGE_BYTES).filled is None
    assert arena.reserve(64) is None
    arena.add(second)
    room = arena.reserve(64)
    assert (room.offset, room.filled) == (2 * MIB, first)


def test_a_large_event_fills_its_span(arena, number):
    span = GrantedSpan(number, 4 * MIB, MIB, False)
    arena.add(span)
    room = arena.reserve(MIB)
    assert (room.offset, room.filled, arena.stocked(MIB)) == (4 * MIB, span, 0)


def test_a_span_is_backed_before_it_is_written(arena, number, prefix):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    path = shm.SHM_DIR / f"{prefix}{number}"
    assert path.stat().st_blocks == 0
    arena.reserve(1)
    assert path.stat().st_blocks * 512 == MIB


def test_a_backed_span_is_not_backed_again(arena, number, prefix):
    arena.add(GrantedSpan(number, MIB, MIB, True))
    arena.reserve(1)
    assert (shm.SHM_DIR / f"{prefix}{number}").stat().st_blocks == 0


def test_a_span_without_memory_is_given_back(prefix, make_segment, more_than_there_is):
    arena, length = Arena(Mappings(prefix, shm), MIB), more_than_there_is
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


def test_a_prepared_span_has_its_memory(arena, number, prefix):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    assert arena.prepare(MIB)
    assert (shm.SHM_DIR / f"{prefix}{number}").stat().st_blocks * 512 == MIB
    assert [span.backed for span in arena.granted()] == [True]


def test_a_closed_arena_has_no_room(arena, number):
    arena.add(GrantedSpan(number, MIB, MIB, False))
    arena.reserve(1)
    arena.close()
    assert arena.reserve(1) is None
