"""Spans: which process writes where, and when a piece of shared memory may be used again.

A segment is cut into blocks; a span is some neighbouring blocks, found by a buddy allocator: what it does not need of
2^k blocks is free for others. Its writer appends events until it is sealed; it is recycled whole when it is sealed,
none of its events is unsettled, and nobody leases it.

Recycled spans keep their pages ("backed"), which is where the speed is: a warm span takes a copy in a fifth of the
time of a fresh one. So a recycled span stays as it is for the next of its size, and is merged with its neighbours only
when nothing else fits.
"""

from __future__ import annotations

from collections.abc import Iterator

from eventbus_mp.geometry import CHUNK_BYTES, SEGMENT_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.protocol.effects import CreateSegment, Effect, FreePages, RemoveSegment

__all__ = ["Span", "SpanTable"]

RESERVE_DIVISOR = 8
"""Listeners that notify may go over the memory bound by this fraction, so a pipeline cannot deadlock on itself."""
RESERVE_BYTES_MIN = 4 * CHUNK_BYTES

Place = tuple[int, int]  # segment number, index of the first block


class Span:
    """A piece of a segment that one process writes. `live` counts runs that somebody has still to settle or to read."""

    __slots__ = ("backed", "end", "filled", "leases", "live", "sealed", "segment", "start", "writer")

    def __init__(self, segment: int, start: int, end: int, writer: int, backed: bool) -> None:
        self.segment = segment
        self.start = start
        self.end = end
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

    __slots__ = ("chunks", "own", "spans")

    def __init__(self, chunks: int, own: bool) -> None:
        self.chunks = chunks
        self.own = own
        self.spans: list[Span | None] = [None] * chunks


class SpanTable:
    """All segments, all spans in use, all free ones. Allocation asks for effects; it never touches memory."""

    def __init__(self, memory_bytes_max: int) -> None:
        self.memory_bytes_max = memory_bytes_max
        self._bound_bytes = memory_bytes_max + max(memory_bytes_max // RESERVE_DIVISOR, RESERVE_BYTES_MIN)
        """With the reserve: what may have pages at once."""
        self.used_bytes = 0
        self._segments: dict[int, _Segment] = {}
        self._segment_bytes = 0
        self._segment_serial = 0
        orders = (SHARED_SPAN_BYTES_MAX // CHUNK_BYTES).bit_length()
        self._cold: list[dict[Place, None]] = [{} for _ in range(orders)]
        """Free 2^k blocks at a multiple of 2^k, by k."""
        # Insertion-ordered, so that popitem() gives the one freed last: its pages are the likeliest in the cache.
        self._warm: dict[int, dict[Place, None]] = {}
        """Free spans as they were used, by how many blocks they have: the next of that size finds one."""
        self._lukewarm_bytes = 0
        """Of the cold blocks, at most so much has pages: what was merged with them, or given back without an event."""

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
        chunk = offset // CHUNK_BYTES
        return found.spans[chunk] if chunk < found.chunks else None

    def allocate(self, length: int, writer: int, effects: list[Effect], *, reserve: bool = False) -> Span | None:
        """A span of at least `length` bytes for `writer`, or None when the memory bound does not allow it now."""
        limit = self._bound_bytes if reserve else self.memory_bytes_max
        if not self._is_shared(length):
            return self._allocate_own(length, writer, limit, effects)
        size = _whole_chunks(length)
        if self.used_bytes + size > limit:
            return None
        chunks = size // CHUNK_BYTES
        found = self._take(chunks, effects)
        if found is None:
            # Free, but in pieces.
            return self._allocate_own(length, writer, limit, effects)
        (segment, chunk), backed = found
        return self._use(Span(segment, chunk * CHUNK_BYTES, (chunk + chunks) * CHUNK_BYTES, writer, backed))

    def fits(self, length: int) -> bool:
        """Whether a span of `length` bytes could be had if all memory were free."""
        return _whole_chunks(length) <= self.memory_bytes_max

    def _is_shared(self, length: int) -> bool:
        """Whether a span of this length lies among others; if not, it gets a segment of its own."""
        chunks = _segment_chunks(self._bound_bytes)
        return length <= SHARED_SPAN_BYTES_MAX and chunks >= 1 << _buddy_order(length)

    def recycle(self, span: Span, effects: list[Effect]) -> None:
        """Make a recyclable span's memory free; a segment of its own goes away."""
        segment = self._segments[span.segment]
        first, last = span.start // CHUNK_BYTES, span.end // CHUNK_BYTES
        segment.spans[first:last] = [None] * (last - first)
        self.used_bytes -= span.length
        if segment.own:
            self._drop_segment(span.segment, effects)
            return
        # A span that nobody wrote may have no memory behind it: the next writer has to back it.
        if span.backed:
            self._warm.setdefault(last - first, {})[span.segment, first] = None
        else:
            self._lukewarm_bytes += span.length  # Or it may: backed, and given back.
            self._put_all(span.segment, first, last)

    # --- the buddy allocator ---

    def _use(self, span: Span) -> Span:
        first, last = span.start // CHUNK_BYTES, span.end // CHUNK_BYTES
        self._segments[span.segment].spans[first:last] = [span] * (last - first)
        self.used_bytes += span.length
        return span

    def _take(self, chunks: int, effects: list[Effect]) -> tuple[Place, bool] | None:
        """So many free blocks, and whether they are warm: a warm span of about the size, or else cold ones."""
        return (
            self._take_warm(chunks, 2 * chunks)
            or self._take_cold(chunks, effects)
            or self._take_warm(chunks, None)
            or (self._take_cold(chunks, effects) if self._coalesce() else None)
        )

    def _take_warm(self, chunks: int, limit: int | None) -> tuple[Place, bool] | None:
        """The smallest warm span that has as many, up to `most`; what it has beyond is a warm span, too."""
        fitting = [size for size in self._warm if chunks <= size and (limit is None or size <= limit)]
        if not fitting:
            return None
        size = min(fitting)
        (segment, chunk), _ = self._warm[size].popitem()
        if not self._warm[size]:
            del self._warm[size]
        if size > chunks:
            self._warm.setdefault(size - chunks, {})[segment, chunk + chunks] = None
        return (segment, chunk), True

    def _take_cold(self, chunks: int, effects: list[Effect]) -> tuple[Place, bool] | None:
        """Cold blocks, split off from more of them, in a new segment if need be."""
        self._keep_bound(chunks * CHUNK_BYTES, effects)
        order = (chunks - 1).bit_length()
        if not any(self._cold[order:]) and not self._grow(order, effects):
            return None
        larger = next(larger for larger in range(order, len(self._cold)) if self._cold[larger])
        (segment, chunk), _ = self._cold[larger].popitem()
        self._put_all(segment, chunk + chunks, chunk + (1 << larger))
        return (segment, chunk), False

    def _put(self, segment: int, chunk: int, order: int) -> None:
        """Add cold blocks, merged with their buddy as long as that is free, too."""
        free = self._cold
        while order + 1 < len(free) and (segment, chunk ^ (1 << order)) in free[order]:
            del free[order][segment, chunk ^ (1 << order)]
            chunk &= ~(1 << order)
            order += 1
        free[order][segment, chunk] = None

    def _put_all(self, segment: int, chunk: int, stop: int) -> None:
        """Add the cold blocks up to `stop` as the buddies they make: 2^k blocks at a multiple of 2^k."""
        while chunk < stop:
            fit = (stop - chunk).bit_length()
            aligned = (chunk & -chunk).bit_length() if chunk else len(self._cold)
            order = min(fit, aligned, len(self._cold)) - 1
            self._put(segment, chunk, order)
            chunk += 1 << order

    def _coalesce(self) -> bool:
        """Merge warm with cold: the last resort against fragments. Whether there was anything warm to merge."""
        self._lukewarm_bytes += self._warm_bytes
        warm, self._warm = self._warm, {}
        for size, places in warm.items():
            for segment, chunk in places:
                self._put_all(segment, chunk, chunk + size)
        return bool(warm)

    @property
    def _warm_bytes(self) -> int:
        return sum(chunks * len(places) for chunks, places in self._warm.items()) * CHUNK_BYTES

    def _keep_bound(self, length: int, effects: list[Effect]) -> None:
        """Before `length` bytes more get pages: there are none beyond the bound, free or in use."""
        if self._segment_bytes <= self._bound_bytes:
            return
        if self.used_bytes + length + self._warm_bytes + self._lukewarm_bytes > self._bound_bytes:
            self._cool_down(effects)

    def _cool_down(self, effects: list[Effect]) -> None:
        """Give back the pages of everything that is free."""
        self._coalesce()
        self._lukewarm_bytes = 0
        for order, places in enumerate(self._cold):
            for segment, chunk in places:
                effects.append(FreePages(segment, chunk * CHUNK_BYTES, CHUNK_BYTES << order))

    # --- segments ---

    def _grow(self, order: int, effects: list[Effect]) -> bool:
        chunks = _segment_chunks(self._bound_bytes - self._segment_bytes)
        if chunks < 1 << order:
            return False
        self._put_all(self._add_segment(chunks, own=False, effects=effects), 0, chunks)
        return True

    def _allocate_own(self, length: int, writer: int, limit: int, effects: list[Effect]) -> Span | None:
        whole = _whole_chunks(length)
        if self.used_bytes + whole > limit:
            return None
        if self._segment_bytes + whole > self._bound_bytes:
            self._drop_empty_segments(effects)
        # There may be more segments now than the bound: those that cannot go hold little, or one small span in each of
        # them would keep every large event out for ever. What is free in them gives up its pages for that.
        number = self._add_segment(whole // CHUNK_BYTES, own=True, effects=effects)
        self._keep_bound(whole, effects)
        return self._use(Span(number, 0, whole, writer, backed=False))

    def _add_segment(self, chunks: int, *, own: bool, effects: list[Effect]) -> int:
        self._segment_serial += 1
        self._segments[self._segment_serial] = _Segment(chunks, own)
        self._segment_bytes += chunks * CHUNK_BYTES
        effects.append(CreateSegment(self._segment_serial, chunks * CHUNK_BYTES))
        return self._segment_serial

    def _drop_segment(self, number: int, effects: list[Effect]) -> None:
        self._segment_bytes -= self._segments.pop(number).chunks * CHUNK_BYTES
        effects.append(RemoveSegment(number))

    def _drop_empty_segments(self, effects: list[Effect]) -> None:
        empty = {number for number, segment in self._segments.items() if not any(segment.spans)}
        for free in (*self._warm.values(), *self._cold):
            for place in [place for place in free if place[0] in empty]:
                del free[place]
        self._warm = {size: places for size, places in self._warm.items() if places}
        for number in sorted(empty):
            # Processes keep its mapping, and that would keep its pages.
            effects.append(FreePages(number, 0, self._segments[number].chunks * CHUNK_BYTES))
            self._drop_segment(number, effects)

    def check_invariants(self) -> None:
        """No two spans overlap; free and used ones add up to the segments; what is recyclable was recycled."""
        covered: dict[Place, str] = {}
        cold = [(1 << order, places) for order, places in enumerate(self._cold)]
        for size, places in [*cold, *self._warm.items()]:
            for at, chunk in places:
                for index in range(chunk, chunk + size):
                    assert (at, index) not in covered, f"block {index} of segment {at} is free twice"
                    covered[at, index] = "free"
        for span in self.in_use():
            assert span.live >= 0, f"span {span.segment}+{span.start} counts {span.live} runs"
            assert not span.recyclable, f"span {span.segment}+{span.start} is overdue"
            for index in range(span.start // CHUNK_BYTES, span.end // CHUNK_BYTES):
                assert (span.segment, index) not in covered, f"block {index} of {span.segment} is used and free"
                covered[span.segment, index] = "used"
        for number, segment in self._segments.items():
            for index in range(segment.chunks):
                assert (number, index) in covered, f"block {index} of segment {number} is lost"
        assert len(covered) == sum(segment.chunks for segment in self._segments.values()), "a block of no segment"
        assert self._segment_bytes == sum(segment.chunks for segment in self._segments.values()) * CHUNK_BYTES
        assert self.used_bytes == sum(span.length for span in self.in_use())


def _buddy_order(length: int) -> int:
    """k, so that 2^k blocks hold `length` bytes."""
    return max(0, (length - 1) // CHUNK_BYTES).bit_length()


def _whole_chunks(length: int) -> int:
    """The bytes of the blocks that hold `length` bytes."""
    return -(-length // CHUNK_BYTES) * CHUNK_BYTES


def _segment_chunks(room_bytes: int) -> int:
    """The blocks of a segment that offers up to `room_bytes`."""
    return min(SEGMENT_BYTES, room_bytes) // CHUNK_BYTES
