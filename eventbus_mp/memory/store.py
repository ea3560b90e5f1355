"""The port to memory: what the bus needs of the segments that payloads are written to.

There are two stores: `shm.py` keeps segments in shared memory, where all processes of the machine find them; `heap.py`
keeps them in the memory of one process. `tests/memory/conformance/test_segment_store.py` holds both to what is said
here.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["SegmentStore"]


class SegmentStore(Protocol):
    """Segments of memory, by name.

    A segment has a fixed length and begins with no memory behind it: a range has to be backed before it is written.
    Offsets and lengths are bytes, and offsets count from the segment's start. The caller keeps every range inside its
    segment. No method waits for another process, and threads may call all of them at once.
    """

    def create(self, name: str, length: int, directory: str | None = None) -> None:
        """Make a segment of `length` bytes, one or more, none of which is backed. It is not mapped here.

        It lies in memory or, if a directory is given, in a file there; the other methods make no difference.

        The caller tells others its name when this has returned, not before. If an error is raised there is no segment.

        Raises:
            FileExistsError: The name is taken.
            OSError: The kernel refuses, or there is no such directory.
        """

    def attach(self, name: str) -> memoryview:
        """The whole segment as a writable view of bytes, which begins at a page.

        The view, and every view derived from it, stays valid after `remove`; the memory is returned when the last one
        is gone. Ranges that were never backed read as zeros, if there is memory to read them with: a process that must
        not be killed reads them with `read`.

        Raises:
            FileNotFoundError: There is no segment of this name, or not any more.
            OSError: The kernel refuses the mapping.
        """

    def back(self, name: str, offset: int, length: int) -> None:
        """Reserve memory for a range, so that writing to it cannot fail. What is backed already keeps its bytes.

        All of the range is backed, or nothing changes when an error is raised.

        Raises:
            FileNotFoundError: There is no segment of this name, or not any more.
            ValueError: The range is not inside the segment.
            OSError: ENOSPC: less memory, or room for files, is free than the range needs; the error has the path.
        """

    def read(self, name: str, offset: int, length: int) -> bytes:
        """A copy of a range, for a process that does not map the segment. It is not atomic: a writer may be in between.

        Ranges that are not backed read as zeros. Fewer bytes are returned when the segment ends first.

        Raises:
            FileNotFoundError: There is no segment of this name, or not any more.
            OSError: `offset` is negative, or the process has no file descriptor left.
        """

    def free_pages(self, name: str, offset: int, length: int) -> None:
        """Return the memory behind a range: it reads as zeros, in all views as well, and has to be backed again.

        `offset` and `length` are multiples of the page size, 4 KiB or more, which all chunks are.

        Raises:
            FileNotFoundError: There is no segment of this name, or not any more.
            ValueError: The range is not inside the segment.
            OSError: The kernel refuses; nothing was returned.
        """

    def remove(self, name: str) -> None:
        """Remove a segment: from now on it cannot be attached. Nothing happens if there is none of this name."""

    def leftovers(self, prefix: str) -> list[str]:
        """The names of all segments that begin with `prefix`, sorted."""

    def free_bytes(self) -> int:
        """How much memory can still be backed at this moment. Others may take it before the caller does."""
