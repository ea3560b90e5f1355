"""Segments in the memory of one process: for tests, and for a bus whose manager and clients are one process.

It keeps the contract of `SegmentStore` to the letter, down to what is not backed: a test that would get a SIGBUS from
shared memory cannot be noticed here, but memory that runs out is, at the same call.
"""

from __future__ import annotations

import errno
import os
from mmap import PAGESIZE

__all__ = ["HeapStore"]


class _Segment:
    __slots__ = ("backed", "memory")

    def __init__(self, length: int) -> None:
        self.memory = memoryview(bytearray(length))
        self.backed: set[int] = set()
        """Indexes of pages."""


class HeapStore:
    """Args:
    capacity_bytes: How much can be backed at once, like the size of /dev/shm; None: as much as is asked for.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self._capacity_bytes = capacity_bytes if capacity_bytes is not None else 1 << 62
        self._segments: dict[str, _Segment] = {}

    def create(self, name: str, length: int, /) -> None:
        """See `SegmentStore.create`."""
        if name in self._segments:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._segments[name] = _Segment(length)

    def attach(self, name: str, /) -> memoryview:
        """See `SegmentStore.attach`."""
        return self._find(name).memory[:]

    def back(self, name: str, offset: int, length: int, /) -> None:
        """See `SegmentStore.back`."""
        segment = self._find(name)
        missing = set(_pages(offset, length)) - segment.backed
        if len(missing) * PAGESIZE > self.free_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        segment.backed |= missing

    def read(self, name: str, offset: int, length: int, /) -> bytes:
        """See `SegmentStore.read`."""
        return bytes(self._find(name).memory[offset : offset + length])

    def free_pages(self, name: str, offset: int, length: int, /) -> None:
        """See `SegmentStore.free_pages`."""
        segment = self._find(name)
        segment.memory[offset : offset + length] = bytes(length)
        segment.backed -= set(_pages(offset, length))

    def remove(self, name: str, /) -> None:
        """See `SegmentStore.remove`. What is still mapped no longer counts as backed."""
        self._segments.pop(name, None)

    def leftovers(self, prefix: str, /) -> list[str]:
        """See `SegmentStore.leftovers`."""
        return sorted(name for name in self._segments if name.startswith(prefix))

    def free_bytes(self) -> int:
        """See `SegmentStore.free_bytes`."""
        return self._capacity_bytes - sum(len(segment.backed) for segment in self._segments.values()) * PAGESIZE

    def _find(self, name: str) -> _Segment:
        try:
            return self._segments[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None


def _pages(offset: int, length: int) -> range:
    return range(offset // PAGESIZE, -(-(offset + length) // PAGESIZE))
