"""Segments in the memory of this process, for tests and for a bus whose clients are all in one process.

They behave as those of shm.py do, but for four things: no other process sees them, writing where nothing is backed does
no harm, those that are to lie in files lie in memory as well, and all views have the same addresses, so what a client
shows does not become its own when it leaves. `capacity` plays the size of /dev/shm.
"""

from __future__ import annotations

import errno
import mmap
import sys
import weakref

from eventbus_mp.locking import NonReentrantLock

__all__ = ["HeapStore"]

Pages = set[int]
"""Numbers of the pages of a segment that are backed."""


class HeapStore:
    """A `SegmentStore` of its own: a name means something in this instance only. Forked children get copies.

    Args:
        capacity: How many bytes can be backed at one time, in memory and in files; None: as many as the process can
            have. As in shared memory, a removed segment counts until its last view is gone.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = sys.maxsize if capacity is None else capacity
        self._segments: dict[str, tuple[mmap.mmap, Pages]] = {}
        self._removed: list[tuple[weakref.ref[mmap.mmap], Pages]] = []
        """Segments without a name, of which there may be views."""
        self._lock = NonReentrantLock()

    def create(self, name: str, length: int, directory: str | None = None) -> None:
        with self._lock.held():
            if name in self._segments:
                raise FileExistsError(errno.EEXIST, "there is a segment of this name", name)
            # Not a bytearray: that begins anywhere, and payloads need memory that is aligned as a page is.
            memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._segments[name] = memory, set()

    def attach(self, name: str) -> memoryview:
        return memoryview(self._find(name)[0])

    def back(self, name: str, offset: int, length: int) -> None:
        with self._lock.held():
            memory, pages = self._find(name)
            missing = _pages(name, memory, offset, length) - pages
            if len(missing) * mmap.PAGESIZE > self._free_bytes():
                raise OSError(errno.ENOSPC, "No space left in the store", name)
            pages |= missing

    def read(self, name: str, offset: int, length: int) -> bytes:
        memory, _ = self._find(name)
        if offset < 0:
            raise OSError(errno.EINVAL, f"Invalid argument: offset {offset}", name)
        return memory[offset : offset + length]

    def free_pages(self, name: str, offset: int, length: int) -> None:
        with self._lock.held():
            memory, pages = self._find(name)
            pages -= _pages(name, memory, offset, length)
            memory.madvise(mmap.MADV_DONTNEED, offset, length)

    def remove(self, name: str) -> None:
        with self._lock.held():
            found = self._segments.pop(name, None)
            if found is not None:
                memory, pages = found
                self._removed.append((weakref.ref(memory), pages))

    def leftovers(self, prefix: str) -> list[str]:
        return sorted(name for name in list(self._segments) if name.startswith(prefix))

    def free_bytes(self) -> int:
        with self._lock.held():
            return self._free_bytes()

    def _find(self, name: str) -> tuple[mmap.mmap, Pages]:
        try:
            return self._segments[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "there is no segment of this name", name) from None

    def _free_bytes(self) -> int:
        # Looked for here and not counted by a callback, which could run in any thread, in the middle of any method.
        self._removed = [(memory, pages) for memory, pages in self._removed if memory() is not None]
        backed = [pages for _, pages in self._segments.values()] + [pages for _, pages in self._removed]
        return self._capacity - sum(map(len, backed)) * mmap.PAGESIZE


def _pages(name: str, memory: mmap.mmap, offset: int, length: int) -> Pages:
    """The numbers of the pages that a range touches.

    Raises:
        ValueError: The range is not inside the segment.
    """
    if not 0 <= offset <= offset + length <= len(memory):
        raise ValueError(f"{length} bytes from {offset} are not inside segment {name}")
    return set(range(offset // mmap.PAGESIZE, -(-(offset + length) // mmap.PAGESIZE)))
