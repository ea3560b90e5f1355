"""The port to memory: what the bus needs of a place where segments live.

Two implementations: `shm.py`, the shared memory of the machine, a module of functions; and `heap.py`, the memory of one
process, for tests and for a bus that lives in one process. tests/memory/test_store.py holds both to this contract.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["SegmentStore"]


class SegmentStore(Protocol):
    """Segments by name. No call blocks for longer than the kernel takes to find memory."""

    def create(self, name: str, length: int, /) -> None:
        """Make a segment of `length` bytes, of which none is backed by memory yet. It is not mapped.

        Raises:
            FileExistsError: The name is taken.
            OSError: There is no memory or descriptor for it; nothing was made.
        """

    def attach(self, name: str, /) -> memoryview:
        """Map a whole segment for reading and writing.

        The mapping lives as long as any view derived from it, also after `remove`. A byte may be touched only where the
        segment is backed.

        Raises:
            FileNotFoundError: It does not exist, or does no longer.
        """

    def back(self, name: str, offset: int, length: int, /) -> None:
        """Reserve memory for a range; what was written there stays.

        Raises:
            FileNotFoundError: The segment does not exist.
            OSError: ENOSPC when there is not enough; nothing is lost.
        """

    def read(self, name: str, offset: int, length: int, /) -> bytes:
        """A copy of a range without mapping it; what is not backed reads as zeros.

        Raises:
            FileNotFoundError: The segment does not exist.
            OSError: There is no descriptor for it.
        """

    def free_pages(self, name: str, offset: int, length: int, /) -> None:
        """Give the memory of a range back: it reads as zeros, and has to be backed again before it is written.

        Raises:
            FileNotFoundError: The segment does not exist.
        """

    def remove(self, name: str, /) -> None:
        """Take the name away; mappings stay. Harmless when it is gone."""

    def leftovers(self, prefix: str, /) -> list[str]:
        """The names of all segments that begin with `prefix`, sorted."""

    def free_bytes(self) -> int:
        """How many bytes can still be backed."""
