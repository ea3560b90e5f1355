"""Spans: which process writes where, and when a piece of shared memory may be used again.

A segment is cut into blocks; a span is 2^k neighbouring blocks, found by a buddy allocator. Its writer appends events
until it is sealed; it is recycled whole when it is sealed, none of its events is unsettled, and nobody leases it.

Recycled spans keep their pages ("backed"), which is where the speed is: a warm span takes a copy in a fifth of the
time of a fresh one. So a backed span is never merged with an unbacked neighbour unless nothing else fits.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventbus_mp.effects import CreateSegment, Effect, RemoveSegment
from eventbus_mp.messages import BLOCK_BYTES, SEGMENT_BYTES, SHARED_SPAN_BYTES_MAX

__all__ = ["Span", "SpanTable"]

RESERVE_DIVISOR = 8
"""Listeners that notify may go over the memory bound by this fraction, so a pipeline cannot deadlock on itself."""
RESERVE_BYTES_MIN = 4 * BLOCK_BYTES

Place = tuple[int, int]  # segment number, index of the first block


class Span:
    """A piece of a segment that one process writes. `live` counts runs that somebody has still to settle or to read."""

    __slots__ = ("backed", "end", "filled", "leases", "live", "order", "sealed", "segment", "start", "writer")

    def __init__(self, segment: int, start: int, end: int, order: int, writer: int, backed: bool) -> None:
        self.segment = segment
        self.start = start
        self.end = end
        self.order = order
        self.writer = writer
        self.backed = backed
        self.filled = 0
        """Bytes of the events in it, settled ones too."""
        self.live = 0
        self.sealed = False
        self.leases = 0
        """How many processes' leases keep it."""

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def recyclable(self) -> bool:
        return self.sealed and not self.live and not self.leases


class _Segment:
    """One shared memory object; `spans[block]` is the span in use there."""

    __slots__ = ("blocks", "own", "spans")

    def __init__(self, blocks: int, own: bool) -> None:
        self.blocks = blocks
        self.own = own
        self.spans: list[Span | None] = [None] * blocks


class SpanTable:
    """All segments, all spans in use, all free ones. Allocation asks for effects; it never touches memory."""

    def __init__(self, memory_bytes_max: int) -> None:
        self.memory_bytes_max = memory_bytes_max
        self._reserve_bytes = max(memory_bytes_max // RESERVE_DIVISOR, RESERVE_BYTES_MIN)
        self.used_bytes = 0
        self._segments: dict[int, _Segment] = {}
        self._segment_bytes = 0
        """What the segments offer; their tables not counted."""
        self._segment_serial = 0
        orders = (SHARED_SPAN_BYTES_MAX // BLOCK_BYTES).bit_length()
        # Insertion-ordered, so that popitem() gives the one freed last: its pages are the likeliest in the cache.
        self._warm: list[dict[Place, None]] = [{} for _ in range(orders)]
        self._cold: list[dict[Place, None]] = [{} for _ in range(orders)]

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    def in_use(self) -> Iterator[Span]:
        """Every span that is leased to a writer, holds unsettled events or is leased by readers."""
        for segment in self._segments.values():
            last = None
            for span in segment.spans:
                if span is not None and span is not last:
                    yield span
                last = span

    def find(self, segment: int, offset: int) -> Span | None:
        """The span in use that holds this byte."""
        found = self._segments.get(segment)
        if found is None:
            return None
        block = offset // BLOCK_BYTES
        return found.spans[block] if block < found.blocks else None

    def allocate(self, length: int, writer: int, effects: list[Effect], *, reserve: bool = False) -> Span | None:
        """A span of at least `length` bytes for `writer`, or None when the memory bound does not allow it now."""
        limit = self.memory_bytes_max + (self._reserve_bytes if reserve else 0)
        if not self._is_shared(length):
            return self._allocate_own(length, writer, limit, effects)
        order = _order(length)
        if self.used_bytes + (BLOCK_BYTES << order) > limit:
            return None
        found = self._take(order)
        if found is None and self._grow(order, effects):
            found = self._take(order)
        if found is None and self._coalesce():
            found = self._take(order)
        if found is None:
            # Free, but in pieces.
            return self._allocate_own(length, writer, limit, effects)
        (segment, block), backed = found
        start = block * BLOCK_BYTES
        return self._use(Span(segment, start, start + (BLOCK_BYTES << order), order, writer, backed))

    def fits(self, length: int) -> bool:
        """Whether a span of `length` bytes could be had if all memory were free."""
        if not self._is_shared(length):
            return _own_bytes(length) - BLOCK_BYTES <= self.memory_bytes_max
        return (BLOCK_BYTES << _order(length)) <= self.memory_bytes_max

    def _is_shared(self, length: int) -> bool:
        """Whether a span of this length lies among others; if not, it gets a segment of its own."""
        blocks = _segment_blocks(self.memory_bytes_max + self._reserve_bytes)
        return length <= SHARED_SPAN_BYTES_MAX and blocks - 1 >= 1 << _order(length)

    def recycle(self, span: Span, effects: list[Effect]) -> None:
        """Make a recyclable span's memory free; a segment of its own goes away."""
        segment = self._segments[span.segment]
        first, last = span.start // BLOCK_BYTES, span.end // BLOCK_BYTES
        segment.spans[first:last] = [None] * (last - first)
        self.used_bytes -= span.length
        if segment.own:
            self._drop_segment(span.segment, effects)
            return
        # A span that nobody wrote may have no memory behind it: the next writer has to back it.
        self._put(span.segment, first, span.order, self._warm if span.backed else self._cold)

    # --- the buddy allocator ---

    def _use(self, span: Span) -> Span:
        first, last = span.start // BLOCK_BYTES, span.end // BLOCK_BYTES
        self._segments[span.segment].spans[first:last] = [span] * (last - first)
        self.used_bytes += span.length
        return span

    def _take(self, order: int) -> tuple[Place, bool] | None:
        """A free span of exactly `order`: warm before cold, split from a larger one if need be."""
        for free in (self._warm, self._cold):
            for larger in range(order, len(free)):
                if free[larger]:
                    (segment, block), _ = free[larger].popitem()
                    while larger > order:
                        larger -= 1
                        free[larger][segment, block + (1 << larger)] = None
                    return (segment, block), free is self._warm
        return None

    def _put(self, segment: int, block: int, order: int, free: list[dict[Place, None]]) -> None:
        """Add a free span, merged with its buddy as long as that is free and just as warm."""
        index = block - 1  # Buddies are counted from the block after the table: a segment has no odd end.
        while order + 1 < len(free) and (segment, (index ^ (1 << order)) + 1) in free[order]:
            del free[order][segment, (index ^ (1 << order)) + 1]
            index &= ~(1 << order)
            order += 1
        free[order][segment, index + 1] = None

    def _coalesce(self) -> bool:
        """Merge warm with cold: the last resort against fragments. Whether there was anything warm to merge."""
        moved = False
        for order, places in enumerate(self._warm):
            while places:
                (segment, block), _ = places.popitem()
                self._put(segment, block, order, self._cold)
                moved = True
        return moved

    # --- segments ---

    def _grow(self, order: int, effects: list[Effect]) -> bool:
        room = self.memory_bytes_max + self._reserve_bytes - self._segment_bytes
        blocks = _segment_blocks(room)
        if blocks - 1 < 1 << order:
            return False
        number = self._add_segment(blocks, own=False, effects=effects)
        block = 1
        while block < blocks:
            fit = min((blocks - block).bit_length(), len(self._cold)) - 1
            self._cold[fit][number, block] = None
            block += 1 << fit
        return True

    def _allocate_own(self, length: int, writer: int, limit: int, effects: list[Effect]) -> Span | None:
        whole = _own_bytes(length)
        if self.used_bytes + whole - BLOCK_BYTES > limit:
            return None
        if self._segment_bytes + whole - BLOCK_BYTES > self.memory_bytes_max + self._reserve_bytes:
            # Segments that cannot go hold little: `used_bytes` is what is bounded, or one small span in each of them
            # would keep every large event out for ever.
            self._drop_empty_segments(effects)
        number = self._add_segment(whole // BLOCK_BYTES, own=True, effects=effects)
        return self._use(Span(number, BLOCK_BYTES, whole, 0, writer, backed=False))

    def _add_segment(self, blocks: int, *, own: bool, effects: list[Effect]) -> int:
        self._segment_serial += 1
        self._segments[self._segment_serial] = _Segment(blocks, own)
        self._segment_bytes += (blocks - 1) * BLOCK_BYTES
        effects.append(CreateSegment(self._segment_serial, blocks * BLOCK_BYTES))
        return self._segment_serial

    def _drop_segment(self, number: int, effects: list[Effect]) -> None:
        self._segment_bytes -= (self._segments.pop(number).blocks - 1) * BLOCK_BYTES
        effects.append(RemoveSegment(number))

    def _drop_empty_segments(self, effects: list[Effect]) -> None:
        empty = {number for number, segment in self._segments.items() if not any(segment.spans)}
        for free in (*self._warm, *self._cold):
            for place in [place for place in free if place[0] in empty]:
                del free[place]
        for number in sorted(empty):
            self._drop_segment(number, effects)

    def check_invariants(self) -> None:
        """No two spans overlap; free and used ones add up to the segments; what is recyclable was recycled."""
        covered: dict[Place, str] = {}
        for free in (self._warm, self._cold):
            for order, places in enumerate(free):
                for at, block in places:
                    for index in range(block, block + (1 << order)):
                        assert (at, index) not in covered, f"block {index} of segment {at} is free twice"
                        covered[at, index] = "free"
        for span in self.in_use():
            assert span.live >= 0, f"span {span.segment}+{span.start} counts {span.live} runs"
            assert not span.recyclable, f"span {span.segment}+{span.start} is overdue"
            for index in range(span.start // BLOCK_BYTES, span.end // BLOCK_BYTES):
                assert (span.segment, index) not in covered, f"block {index} of {span.segment} is used and free"
                covered[span.segment, index] = "used"
        for number, segment in self._segments.items():
            for index in range(1, segment.blocks):
                assert (number, index) in covered, f"block {index} of segment {number} is lost"
        assert len(covered) == sum(segment.blocks - 1 for segment in self._segments.values()), "a block of no segment"
        assert self._segment_bytes == sum(segment.blocks - 1 for segment in self._segments.values()) * BLOCK_BYTES
        assert self.used_bytes == sum(span.length for span in self.in_use())


def _order(length: int) -> int:
    """k, so that 2^k blocks hold `length` bytes."""
    return max(0, (length - 1) // BLOCK_BYTES).bit_length()


def _own_bytes(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES


def _segment_blocks(room_bytes: int) -> int:
    """The blocks of a segment that offers up to `room_bytes`; its table comes on top."""
    return min(SEGMENT_BYTES, room_bytes + BLOCK_BYTES) // BLOCK_BYTES
