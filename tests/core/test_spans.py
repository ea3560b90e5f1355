"""The span table: nothing overlaps, nothing is lost, warm before cold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_mp.core.allocator.spans import SpanTable
from eventbus_mp.geometry import CHUNK_BYTES, SEGMENT_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.protocol.effects import CreateSegment, Effect, FreePages, RemoveSegment

MIB = 1 << 20


def take(table, length, *, reserve=False):
    effects: list[Effect] = []
    return table.allocate(length, 1, effects, reserve=reserve), effects


def put(table, span, *, written=True):
    effects: list[Effect] = []
    span.sealed = True
    span.backed = span.backed or written
    table.recycle(span, effects)
    return effects


def test_a_span_is_the_blocks_that_hold_the_length():
    table = SpanTable(64 * MIB)
    assert [take(table, length)[0].length for length in (1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES)] == [
        CHUNK_BYTES,
        CHUNK_BYTES,
        2 * CHUNK_BYTES,
        5 * CHUNK_BYTES,
    ]


def test_what_a_span_does_not_need_is_there_for_others():
    table = SpanTable(4 * MIB)
    for length in (MIB + 1, MIB, CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, MIB):
        assert take(table, length)[0] is not None
    assert table.segment_count == 1
    table.check_invariants()


def test_a_segment_is_used_from_its_first_byte_to_its_last():
    table = SpanTable(128 * MIB)
    spans = [take(table, SHARED_SPAN_BYTES_MAX)[0] for _ in range(4)]
    assert [span.start for span in spans] == [SHARED_SPAN_BYTES_MAX, 0] * 2
    assert table.segment_count == 2


def test_memory_is_bounded_and_comes_back():
    table = SpanTable(2 * MIB)
    spans = [take(table, MIB)[0] for _ in range(2)]
    assert take(table, 1)[0] is None
    put(table, spans[0])
    assert take(table, MIB)[0] is not None
    assert table.used_bytes == 2 * MIB


def test_a_listener_may_use_the_reserve():
    table = SpanTable(2 * MIB)
    taken = 0
    while take(table, CHUNK_BYTES)[0] is not None:
        taken += 1
    assert taken == 8
    assert take(table, CHUNK_BYTES, reserve=True)[0] is not None


def test_warm_spans_come_before_cold_ones_and_the_last_freed_first():
    table = SpanTable(16 * MIB)
    _, second, third = (take(table, MIB)[0] for _ in range(3))
    put(table, second)
    put(table, third)
    again, effects = take(table, MIB)
    assert (again.start, again.backed, effects) == (third.start, True, [])


def test_a_span_that_nobody_wrote_is_not_taken_for_backed():
    table = SpanTable(2 * MIB)
    span, _ = take(table, MIB)
    put(table, span, written=False)
    assert not take(table, MIB)[0].backed


def test_warm_and_cold_neighbours_are_merged_when_nothing_else_fits():
    table = SpanTable(2 * MIB)
    spans = []
    while (span := take(table, CHUNK_BYTES, reserve=True)[0]) is not None:
        spans.append(span)
    for index, span in enumerate(spans):
        put(table, span, written=index % 2)
    span, _ = take(table, MIB)
    assert not span.backed
    table.check_invariants()


def test_a_large_span_has_a_segment_of_its_own_that_goes_with_it():
    table = SpanTable(128 * MIB)
    span, effects = take(table, SHARED_SPAN_BYTES_MAX + 1)
    assert effects == [CreateSegment(span.segment, SHARED_SPAN_BYTES_MAX + CHUNK_BYTES)]
    assert put(table, span) == [RemoveSegment(span.segment)]
    assert table.segment_count == table.used_bytes == 0


def test_a_power_of_two_that_no_segment_of_a_small_bus_holds_gets_its_own():
    table = SpanTable(40 * MIB)
    assert table.fits(32 * MIB)
    span, _ = take(table, 32 * MIB)
    assert span.length == 32 * MIB


def test_one_small_span_in_each_segment_does_not_keep_a_large_event_out():
    table = SpanTable(80 * MIB)
    small, _ = take(table, MIB)
    assert take(table, 70 * MIB)[0] is not None
    assert table.find(small.segment, small.start) is small
    table.check_invariants()


def test_memory_that_is_free_in_pieces_is_not_refused():
    table = SpanTable(80 * MIB)
    take(table, MIB)
    spans = [take(table, 16 * MIB)[0] for _ in range(4)]
    assert None not in spans
    table.check_invariants()


def test_empty_segments_make_room_for_a_large_span():
    table = SpanTable(64 * MIB)
    put(table, take(table, MIB)[0])
    span, effects = take(table, 60 * MIB)
    assert RemoveSegment(1) in effects
    assert span is not None


@pytest.mark.parametrize("length", [1, MIB, 4 * MIB, 33 * MIB, 63 * MIB])
def test_what_fits_can_be_had_when_all_is_free(length):
    table = SpanTable(64 * MIB)
    assert table.fits(length)
    assert take(table, length)[0] is not None


def test_what_does_not_fit_never_will():
    assert not SpanTable(64 * MIB).fits(64 * MIB + 1)
    assert not SpanTable(2 * MIB).fits(3 * MIB)


def test_find_knows_only_spans_in_use():
    table = SpanTable(2 * MIB)
    span, _ = take(table, MIB)
    assert table.find(span.segment, span.start) is table.find(span.segment, span.end - 1) is span
    assert table.find(span.segment, span.end) is table.find(span.segment, 1 << 31) is table.find(99, span.start) is None
    put(table, span)
    assert table.find(span.segment, span.start) is None


lengths = st.one_of(
    st.integers(1, 8 * CHUNK_BYTES),
    st.integers(1, SHARED_SPAN_BYTES_MAX),
    st.integers(SHARED_SPAN_BYTES_MAX + 1, SEGMENT_BYTES),
)
steps = st.lists(st.tuples(st.booleans(), lengths, st.integers(0, 1 << 16), st.booleans()), max_size=60)


class Pages:
    """Which blocks have memory behind them: those that were lent, until the core says that they go."""

    def __init__(self):
        self.backed = set()

    def take(self, span):
        self.backed |= {(span.segment, at) for at in range(span.start, span.end, CHUNK_BYTES)}

    def perform(self, effects):
        for effect in effects:
            if isinstance(effect, FreePages):
                self.backed -= {
                    (effect.segment, at) for at in range(effect.offset, effect.offset + effect.length, CHUNK_BYTES)
                }
            elif isinstance(effect, RemoveSegment):
                self.backed = {place for place in self.backed if place[0] != effect.segment}

    @property
    def nbytes(self):
        return len(self.backed) * CHUNK_BYTES


def test_what_is_free_keeps_no_pages_beyond_the_bound():
    table, pages = SpanTable(80 * MIB), Pages()
    spans = [take(table, MIB)[0] for _ in range(80)]
    for span in spans:
        pages.take(span)
    for span in spans[1:]:
        pages.perform(put(table, span))
    assert pages.nbytes == 80 * MIB  # warm
    large, effects = take(table, 70 * MIB)
    pages.perform(effects)
    pages.take(large)
    assert pages.nbytes == 71 * MIB
    again, _ = take(table, MIB)
    assert not again.backed


@given(st.integers(1, 160), steps)
def test_any_order_of_taking_and_giving_back(memory_mib, steps):
    table, pages = SpanTable(memory_mib * MIB), Pages()
    bound = memory_mib * MIB + max(memory_mib * MIB // 8, MIB)
    spans = []
    for take_one, length, which, flag in steps:
        if take_one:
            whole = table.used_bytes + 2 * length + CHUNK_BYTES
            span, effects = take(table, length, reserve=flag)
            pages.perform(effects)
            assert table.fits(length) or span is None or flag
            assert span is not None or whole > memory_mib * MIB, "memory is free and refused"
            if span is not None:
                assert span.length >= length
                assert not span.backed or (span.segment, span.start) in pages.backed, "it would be a SIGBUS"
                pages.take(span)
                spans.append(span)
        elif spans:
            pages.perform(put(table, spans.pop(which % len(spans)), written=flag))
        table.check_invariants()
        assert table.used_bytes <= pages.nbytes <= bound
    for span in spans:
        put(table, span)
    table.check_invariants()
    assert table.used_bytes == 0
    assert not list(table.in_use())
