"""Spans: which process writes where, and when a piece of shared memory may be used again.

A segment is cut into chunks; a span is some neighbouring chunks of it. Its writer appends events until the span is
sealed. It is recycled whole, once it is sealed, none of its events is unsettled, and nobody leases it.

What matters for speed is whether a free chunk has pages behind it. The kernel has to find and zero a page when it is
first written, so a copy into fresh memory takes five times as long as one into memory that was used before. Free
memory has one of three temperatures:

- **warm**: a recycled span that was written. All of its pages are there. It is kept whole for the next span of its size
  (`WarmCache`), and not merged with its neighbours: merging is what made each event of 1 MiB take fresh memory.
- **cold**: never used, or given back to the kernel. No pages are there; the next writer has to back them. Cold chunks
  are in the buddy allocator.
- **lukewarm**: in the buddy allocator as well, but some of the chunks have pages: warm ones that were merged with cold
  ones because nothing else fitted, and spans that were sealed unwritten. Which chunks have pages is not known any
  more, only an upper bound of how many bytes they are. So a lukewarm chunk has the price of a cold one for its writer,
  but counts as memory.

A span is looked for among warm ones of about its size, then among cold chunks, then among larger warm ones, and last
after warm and cold have been merged.

The memory bound is on pages. What is in use, warm and lukewarm stays within it; if it would not, everything free gives
its pages back to the kernel (`FreePages`) and is cold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from eventbus_mp.core.allocator.buddy import BuddyAllocator, Place, order_of
from eventbus_mp.geometry import CHUNK_BYTES, SEGMENT_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.protocol.effects import CreateSegment, Effect, FreePages, RemoveSegment

__all__ = ["RESERVE_BYTES_MIN", "RESERVE_DIVISOR", "Span", "SpanTable", "WarmCache"]

RESERVE_DIVISOR = 8
"""Listeners that notify may go over the memory bound by this fraction, so a pipeline cannot deadlock on itself."""
RESERVE_BYTES_MIN = 4 * CHUNK_BYTES


class Span:
    """A piece of a segment that one process writes."""

    __slots__ = ("backed", "end", "filled", "leases", "live", "sealed", "segment", "start", "writer")

    def __init__(self, segment: int, start: int, end: int, writer: int, backed: bool) -> None:
        self.segment = segment
        self.start = start
        self.end = end
        self.writer = writer
        """Number of the link that may append to it."""
        self.backed = backed
        """All of its pages are there."""
        self.filled = 0
        """Bytes of all events in it, settled or not."""
        self.live = 0
        """How many batches with an unsettled event or a late reader are in it."""
        self.sealed = False
        """Nothing will be appended any more."""
        self.leases = 0
        """How many leases of processes keep it."""

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def recyclable(self) -> bool:
        """Nobody writes it, has to read it or may be reading it."""
        return self.sealed and not self.live and not self.leases


class _Segment:
    """One shared memory object; `spans[chunk]` is the span in use there."""

    __slots__ = ("chunks", "own", "spans")

    def __init__(self, chunks: int, own: bool) -> None:
        self.chunks = chunks
        self.own = own
        """It has one span, and goes away with it."""
        self.spans: list[Span | None] = [None] * chunks


class WarmCache:
    """Free spans with all of their pages, as they were used, by their size in chunks."""

    def __init__(self) -> None:
        # Dictionaries as ordered sets: popitem() gives the span freed last, whose pages are the likeliest in the CPU's
        # cache.
        self._by_size: dict[int, dict[Place, None]] = {}

    def __iter__(self) -> Iterator[tuple[Place, int]]:
        """Every span in it and its size in chunks."""
        for size, places in self._by_size.items():
            for place in places:
                yield place, size

    @property
    def nbytes(self) -> int:
        return sum(chunks * len(places) for chunks, places in self._by_size.items()) * CHUNK_BYTES

    def put(self, segment: int, chunk: int, chunks: int) -> None:
        self._by_size.setdefault(chunks, {})[segment, chunk] = None

    def take(self, chunks: int, limit: int | None = None) -> Place | None:
        """The smallest span that has as many chunks, and at most `limit`; what it has beyond that stays in the
        cache."""
        fitting = [size for size in self._by_size if chunks <= size and (limit is None or size <= limit)]
        if not fitting:
            return None
        size = min(fitting)
        (segment, chunk), _ = self._by_size[size].popitem()
        if not self._by_size[size]:
            del self._by_size[size]
        if size > chunks:
            self.put(segment, chunk + chunks, size - chunks)
        return segment, chunk

    def drain(self) -> list[tuple[Place, int]]:
        """Take out everything."""
        everything = list(self)
        self._by_size.clear()
        return everything

    def drop_segments(self, segments: Collection[int]) -> None:
        """Forget the spans in these segments."""
        kept = [(place, size) for place, size in self.drain() if place[0] not in segments]
        for (segment, chunk), size in kept:
            self.put(segment, chunk, size)


class SpanTable:
    """All segments, all spans in use, all free memory.

    It touches no memory itself. What has to happen to segments and pages it appends to the list of effects that it is
    given.

    Args:
        memory_bytes_max: The bound.
        reserve_bytes: By how much `allocate` may go beyond it if the caller allows that; None: an eighth of it.
        numbered_from: The number of the first segment.
    """

    def __init__(self, memory_bytes_max: int, reserve_bytes: int | None = None, numbered_from: int = 1) -> None:
        self.memory_bytes_max = memory_bytes_max
        if reserve_bytes is None:
            reserve_bytes = max(memory_bytes_max // RESERVE_DIVISOR, RESERVE_BYTES_MIN)
        self._bound_bytes = memory_bytes_max + reserve_bytes
        """With the reserve: how much may have pages at the same time."""
        self.used_bytes = 0
        self.leased_bytes = 0
        """Of the spans with a lease."""
        self.bytes_by_writer: dict[int, int] = {}
        """Link -> bytes of the spans in use that it writes or has written."""
        self._segments: dict[int, _Segment] = {}
        self._segment_bytes = 0
        self._next_segment = numbered_from
        self._warm = WarmCache()
        self._cold = BuddyAllocator(SHARED_SPAN_BYTES_MAX // CHUNK_BYTES)
        self._lukewarm_bytes = 0
        """At most this many bytes of the cold chunks have pages."""

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    def in_use(self) -> Iterator[Span]:
        """Every span that is granted to a writer, holds unsettled events or is leased by readers."""
        return self._in_use()

    def _in_use(self) -> Iterator[Span]:
        for segment in self._segments.values():
            last = None
            for span in segment.spans:
                if span is not None and span is not last:
                    yield span
                last = span

    def find(self, segment: int, offset: int) -> Span | None:
        """The span in use that has this byte."""
        found = self._segments.get(segment)
        if found is None:
            return self._find_elsewhere(segment, offset)
        chunk = offset // CHUNK_BYTES
        return found.spans[chunk] if chunk < found.chunks else None

    def _find_elsewhere(self, segment: int, offset: int) -> Span | None:
        """The span that has this byte of a segment that is not one of these."""
        return None

    def fits(self, length: int) -> bool:
        """Whether a span of `length` bytes could be had if all memory were free."""
        return _whole_chunks(length) <= self.memory_bytes_max

    def allocate(self, length: int, writer: int, effects: list[Effect], *, reserve: bool = False) -> Span | None:
        """A span of at least `length` bytes for `writer`, or None if the memory bound does not allow it now."""
        limit = self._bound_bytes if reserve else self.memory_bytes_max
        if not self._is_shared(length):
            return self._allocate_own(length, writer, limit, effects)
        size = _whole_chunks(length)
        if self.used_bytes + size > limit:
            return None
        chunks = size // CHUNK_BYTES
        found = self._take(chunks, effects)
        if found is None:
            # There is enough free memory, but in pieces.
            return self._allocate_own(length, writer, limit, effects)
        (segment, chunk), backed = found
        return self._use(Span(segment, chunk * CHUNK_BYTES, (chunk + chunks) * CHUNK_BYTES, writer, backed))

    def allocate_alone(self, length: int, writer: int, effects: list[Effect]) -> Span | None:
        """A span in a segment of its own, in which there is never another one; it may be of the reserve."""
        return self._allocate_own(length, writer, self._bound_bytes, effects)

    def recycle(self, span: Span, effects: list[Effect]) -> None:
        """Make a recyclable span's memory free; a segment of its own goes away with it."""
        segment = self._segments[span.segment]
        first, last = span.start // CHUNK_BYTES, span.end // CHUNK_BYTES
        segment.spans[first:last] = [None] * (last - first)
        self.used_bytes -= span.length
        left = self.bytes_by_writer[span.writer] - span.length
        if left:
            self.bytes_by_writer[span.writer] = left
        else:
            del self.bytes_by_writer[span.writer]
        if segment.own:
            self._drop_segment(span.segment, effects)
        elif span.backed:
            self._warm.put(span.segment, first, last - first)
        else:
            # Nobody wrote it, so nobody may rely on its pages. But its writer may have backed it: lukewarm.
            self._lukewarm_bytes += span.length
            self._cold.put(span.segment, first, last)

    def add_lease(self, span: Span) -> None:
        """A reader may read in the span, which is not recycled meanwhile."""
        if not span.leases:
            self.leased_bytes += span.length
        span.leases += 1

    def drop_lease(self, span: Span) -> None:
        """A reader is done; the caller sees whether the span is recyclable now."""
        span.leases -= 1
        if not span.leases:
            self.leased_bytes -= span.length

    # --- free memory: warm, cold, and what becomes of it ---

    def _take(self, chunks: int, effects: list[Effect]) -> tuple[Place, bool] | None:
        """As many free chunks side by side, and whether they are warm."""
        # At most twice the size: cutting up a large warm span for a small one would take it from the next large one.
        place = self._warm.take(chunks, limit=2 * chunks)
        if place is not None:
            return place, True
        place = self._take_cold(chunks, effects)
        if place is not None:
            return place, False
        place = self._warm.take(chunks)
        if place is not None:
            return place, True
        place = self._take_cold(chunks, effects) if self._merge_warm_into_cold() else None
        return (place, False) if place is not None else None

    def _take_cold(self, chunks: int, effects: list[Effect]) -> Place | None:
        """Cold chunks, if need be of a new segment."""
        self._keep_bound(chunks * CHUNK_BYTES, effects)
        if not self._cold.has(chunks) and not self._grow(chunks, effects):
            return None
        return self._cold.take(chunks)

    def _merge_warm_into_cold(self) -> bool:
        """The last resort against fragmentation. Whether there was anything warm to merge."""
        self._lukewarm_bytes += self._warm.nbytes
        merged = self._warm.drain()
        for (segment, chunk), size in merged:
            self._cold.put(segment, chunk, chunk + size)
        return bool(merged)

    def _keep_bound(self, length: int, effects: list[Effect]) -> None:
        """Before `length` bytes more get pages: see to it that all pages, free and in use, stay within the bound."""
        if self._segment_bytes <= self._bound_bytes:
            return  # Even if every byte had its page.
        if self.used_bytes + length + self._warm.nbytes + self._lukewarm_bytes > self._bound_bytes:
            self._give_back_free_pages(effects)

    def _give_back_free_pages(self, effects: list[Effect]) -> None:
        """Make everything that is free cold."""
        self._merge_warm_into_cold()
        self._lukewarm_bytes = 0
        for (segment, chunk), size in self._cold:
            effects.append(FreePages(segment, chunk * CHUNK_BYTES, size * CHUNK_BYTES))

    # --- segments ---

    def _is_shared(self, length: int) -> bool:
        """Whether a span of this length shares a segment with others; if not, it gets one of its own."""
        chunks = _segment_chunks(self._bound_bytes)
        return length <= SHARED_SPAN_BYTES_MAX and chunks >= 1 << order_of(_whole_chunks(length) // CHUNK_BYTES)

    def _use(self, span: Span) -> Span:
        first, last = span.start // CHUNK_BYTES, span.end // CHUNK_BYTES
        self._segments[span.segment].spans[first:last] = [span] * (last - first)
        self.used_bytes += span.length
        self.bytes_by_writer[span.writer] = self.bytes_by_writer.get(span.writer, 0) + span.length
        return span

    def _grow(self, chunks: int, effects: list[Effect]) -> bool:
        """Add a segment, if there may be one more that has a block for as many chunks. Whether there was one added."""
        whole = _segment_chunks(self._bound_bytes - self._segment_bytes)
        if whole < 1 << order_of(chunks):
            return False
        self._cold.put(self._add_segment(whole, own=False, effects=effects), 0, whole)
        return True

    def _allocate_own(self, length: int, writer: int, limit: int, effects: list[Effect]) -> Span | None:
        whole = _whole_chunks(length)
        if self.used_bytes + whole > limit:
            return None
        if self._segment_bytes + whole > self._bound_bytes:
            self.drop_empty_segments(effects)
        # The segments may now add up to more than the bound. Those that cannot go hold little, and without this one
        # small span in each of them would keep every large event out for ever. What is free in them gives up its pages
        # instead.
        number = self._add_segment(whole // CHUNK_BYTES, own=True, effects=effects)
        self._keep_bound(whole, effects)
        return self._use(Span(number, 0, whole, writer, backed=False))

    def _add_segment(self, chunks: int, *, own: bool, effects: list[Effect]) -> int:
        number = self._next_segment
        self._next_segment += 1
        self._segments[number] = _Segment(chunks, own)
        self._segment_bytes += chunks * CHUNK_BYTES
        effects.append(CreateSegment(number, chunks * CHUNK_BYTES))
        return number

    def _drop_segment(self, number: int, effects: list[Effect]) -> None:
        self._segment_bytes -= self._segments.pop(number).chunks * CHUNK_BYTES
        effects.append(RemoveSegment(number))

    def drop_empty_segments(self, effects: list[Effect]) -> None:
        """Remove the segments that no span is in."""
        empty = {number for number, segment in self._segments.items() if not any(segment.spans)}
        self._warm.drop_segments(empty)
        self._cold.drop_segments(empty)
        for number in sorted(empty):
            # Processes keep its mapping, and the mapping would keep its pages.
            effects.append(FreePages(number, 0, self._segments[number].chunks * CHUNK_BYTES))
            self._drop_segment(number, effects)

    def check_invariants(self) -> None:
        """No two spans overlap; free and used ones add up to the segments; what is recyclable was recycled."""
        covered: dict[Place, str] = {}
        for (at, chunk), size in (*self._cold, *self._warm):
            for index in range(chunk, chunk + size):
                assert (at, index) not in covered, f"chunk {index} of segment {at} is free twice"
                covered[at, index] = "free"
        for span in self._in_use():
            assert span.live >= 0, f"span {span.segment}+{span.start} counts {span.live} batches"
            assert not span.recyclable, f"span {span.segment}+{span.start} is overdue"
            for index in range(span.start // CHUNK_BYTES, span.end // CHUNK_BYTES):
                assert (span.segment, index) not in covered, f"chunk {index} of {span.segment} is used and free"
                covered[span.segment, index] = "used"
        for number, segment in self._segments.items():
            for index in range(segment.chunks):
                assert (number, index) in covered, f"chunk {index} of segment {number} is lost"
        assert len(covered) == sum(segment.chunks for segment in self._segments.values()), "a chunk of no segment"
        assert self._segment_bytes == sum(segment.chunks for segment in self._segments.values()) * CHUNK_BYTES
        assert self.used_bytes == sum(span.length for span in self._in_use())
        assert self.leased_bytes == sum(span.length for span in self._in_use() if span.leases)
        writers: dict[int, int] = {}
        for span in self._in_use():
            writers[span.writer] = writers.get(span.writer, 0) + span.length
        assert self.bytes_by_writer == writers


def _whole_chunks(length: int) -> int:
    """The bytes of the chunks that hold `length` bytes."""
    return -(-length // CHUNK_BYTES) * CHUNK_BYTES


def _segment_chunks(room_bytes: int) -> int:
    """The chunks of a segment that offers up to `room_bytes`."""
    return min(SEGMENT_BYTES, room_bytes) // CHUNK_BYTES
