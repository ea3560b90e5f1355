"""A buddy allocator: free blocks of 2^k chunks, split if a smaller one is needed, merged if both halves are free.

The algorithm is Knuth's (The Art of Computer Programming, volume 1, 2.5). A block of 2^k chunks begins at a multiple
of 2^k, so the other half of the block that it was split from, its buddy, begins at `chunk ^ 2^k`. There is one
difference: who takes five chunks gets five. The three that are left of the block of eight are free again at once, as
blocks of one and two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["BuddyAllocator", "Place", "order_of"]

Place = tuple[int, int]
"""Segment number, and the index of a chunk in it."""


def order_of(chunks: int) -> int:
    """The k of the smallest block, of 2^k chunks, that has as many."""
    return (chunks - 1).bit_length()


class BuddyAllocator:
    """The free chunks of any number of segments.

    It knows nothing of what is in use: that is what was taken and not put back.

    Args:
        chunks_max: The size of the largest block, in chunks: a power of two.
    """

    def __init__(self, chunks_max: int) -> None:
        # Dictionaries as ordered sets: popitem() gives the block that was added last.
        self._free: list[dict[Place, None]] = [{} for _ in range(chunks_max.bit_length())]
        """The free blocks of 2^k chunks, by k."""

    def __iter__(self) -> Iterator[tuple[Place, int]]:
        """Every free block and its size in chunks, the smallest ones first."""
        for order, places in enumerate(self._free):
            for place in places:
                yield place, 1 << order

    def has(self, chunks: int) -> bool:
        """Whether `take` would find as many chunks side by side."""
        return any(self._free[order_of(chunks) :])

    def take(self, chunks: int) -> Place | None:
        """The place of as many chunks, from the smallest block that has them; None if there is no such block."""
        for order in range(order_of(chunks), len(self._free)):
            if self._free[order]:
                (segment, chunk), _ = self._free[order].popitem()
                self.put(segment, chunk + chunks, chunk + (1 << order))
                return segment, chunk
        return None

    def put(self, segment: int, start: int, stop: int) -> None:
        """The chunks from `start` up to `stop` are free: add them as the largest aligned blocks that they make up."""
        while start < stop:
            fitting = (stop - start).bit_length()
            aligned = (start & -start).bit_length() if start else len(self._free)
            order = min(fitting, aligned, len(self._free)) - 1
            self._put_block(segment, start, order)
            start += 1 << order

    def _put_block(self, segment: int, chunk: int, order: int) -> None:
        """Add a block, merged with its buddy as long as that is free as well."""
        free = self._free
        while order + 1 < len(free) and (segment, chunk ^ (1 << order)) in free[order]:
            del free[order][segment, chunk ^ (1 << order)]
            chunk &= ~(1 << order)
            order += 1
        free[order][segment, chunk] = None

    def drop_segments(self, segments: Collection[int]) -> None:
        """Forget the free chunks of these segments."""
        for places in self._free:
            for place in [place for place in places if place[0] in segments]:
                del places[place]
