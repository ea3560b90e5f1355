"""Copies of pages of shared memory, to be put in their place: what a view shows stays, whatever others write there.

A view cannot be told to look elsewhere: numpy, pyarrow and the user have its address. So its pages are exchanged below
it. `mremap` moves the copy to the address of the original in one step of the kernel; a thread that reads at this moment
sees the one or the other, and both are the same.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable

__all__ = ["PageCopies", "Shown"]

Shown = tuple[ctypes.Array[ctypes.c_char], int]
"""Memory that is shown: an array that begins where it does, and its length in bytes."""

_MREMAP_MAYMOVE_FIXED = 1 | 2
"""From linux/mman.h; `mmap` does not name them."""
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _mremap, _munmap = _libc.mmap, _libc.mremap, _libc.munmap
_mmap.restype = _mremap.restype = ctypes.c_void_p
_mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
_mremap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
_munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t


class PageCopies:
    """Private copies of the pages that some memory lies on. Either `put_in_place` or `drop` ends them.

    Making them blocks while it copies, and lets other threads run. Nobody may write meanwhile to what is shown; what
    else lies on its pages is copied as it is at some moment.

    Args:
        shown: What to copy. It is kept mapped as long as the copies live.

    Raises:
        OSError: The process has no memory for them; nothing has changed.
    """

    def __init__(self, shown: Iterable[Shown]) -> None:
        self.shown = list(shown)
        self._copies: list[tuple[int, int, int]] = []
        """(address of the copy, length, address of the original)."""
        try:
            for start, end in _page_ranges(self.shown):
                self._copy(start, end - start)
        except BaseException:
            self.drop()
            raise

    def _copy(self, original: int, length: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        copy = _checked(_mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0))
        self._copies.append((copy, length, original))
        ctypes.memmove(copy, original, length)

    def put_in_place(self) -> None:
        """From now on what is shown is this process's own.

        Raises:
            OSError: The kernel refuses, as for want of mappings (vm.max_map_count); some are in place.
        """
        while self._copies:
            copy, length, original = self._copies[-1]
            _checked(_mremap(copy, length, length, _MREMAP_MAYMOVE_FIXED, original))
            self._copies.pop()
        self.shown.clear()

    def drop(self) -> None:
        """Forget them; what is shown stays what it was."""
        while self._copies:
            copy, length, _ = self._copies.pop()
            _munmap(copy, length)
        self.shown.clear()


def _page_ranges(shown: Iterable[Shown]) -> list[tuple[int, int]]:
    """(start, end) of the pages of all that is shown; what touches is one range, for the kernel counts mappings."""
    ranges: list[tuple[int, int]] = []
    for at, length in sorted((ctypes.addressof(array), length) for array, length in shown):
        start, end = at & -mmap.PAGESIZE, (at + length + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
        if ranges and start <= ranges[-1][1]:
            start, end = ranges[-1][0], max(end, ranges.pop()[1])
        ranges.append((start, end))
    return ranges


def _checked(address: int | None) -> int:
    if address is None or address == _FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return address
