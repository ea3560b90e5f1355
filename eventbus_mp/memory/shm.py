"""Segments in shared memory: the only file that touches `multiprocessing.shared_memory`.

The module is a `SegmentStore` (store.py, which says what each function does).

The bus removes its segments itself, so the resource tracker must not know them: it would unlink a segment when the
first process that attached it exits (cpython issue 82300). From 3.13 that is `track=False`; before, `_Untracked` does
what `SharedMemory.__init__` does, without the registration. Nothing is patched.

A mapping is handed out as a memoryview and lives as long as somebody holds that or a view derived from it. The file
descriptor is closed at once, and there is no `close()` that could find views still open (cpython issue 155003).
"""

from __future__ import annotations

import mmap
import os
import sys
from multiprocessing import shared_memory
from pathlib import Path

__all__ = ["SHM_DIR", "attach", "back", "create", "free_bytes", "free_pages", "leftovers", "read", "remove"]

SHM_DIR = Path("/dev/shm")

if sys.version_info >= (3, 13):

    def _open(name: str) -> shared_memory.SharedMemory:
        return shared_memory.SharedMemory(name, track=False)

else:
    import _posixshmem  # type: ignore[import-not-found,unused-ignore]

    class _Untracked(shared_memory.SharedMemory):
        """`SharedMemory` of 3.10 to 3.12, attached without telling the resource tracker."""

        def __init__(self, name: str) -> None:
            self._name = "/" + name
            self._fd = _posixshmem.shm_open(self._name, os.O_RDWR, mode=0o600)
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
            self._buf = memoryview(self._mmap)

    def _open(name: str) -> shared_memory.SharedMemory:
        return _Untracked(name)


def create(name: str, length: int, /) -> None:
    """Make a segment of `length` bytes, of which none is backed by memory yet. It is not mapped here.

    Raises:
        FileExistsError: The name is taken.
        OSError: The kernel refuses.
    """
    fd = os.open(SHM_DIR / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(fd, length)
    except OSError:
        remove(name)
        raise
    finally:
        os.close(fd)


def attach(name: str, /) -> memoryview:
    """Map a segment for reading and writing; the mapping goes with the last view of it.

    Raises:
        FileNotFoundError: It does not exist (any more).
    """
    shared = _open(name)
    view = shared.buf
    # Take the mapping away from the object, whose close() and __del__ would fail on, or pull it from under, our views.
    fd, shared._fd = shared._fd, -1  # type: ignore[attr-defined]
    shared._buf = shared._mmap = None  # type: ignore[attr-defined]
    os.close(fd)
    assert view is not None
    return view


def back(name: str, offset: int, length: int, /) -> None:
    """Reserve memory for a range, so that writing there cannot end in SIGBUS.

    Raises:
        OSError: ENOSPC when /dev/shm is full; nothing is lost.
    """
    fd = os.open(SHM_DIR / name, os.O_RDWR | os.O_NOFOLLOW)
    try:
        os.posix_fallocate(fd, offset, length)
    finally:
        os.close(fd)


def read(name: str, offset: int, length: int, /) -> bytes:
    """A copy of some bytes, for who maps nothing: what has no memory behind it reads as zeros, and is no SIGBUS.

    Raises:
        OSError: FileNotFoundError when it does not exist (any more); there is no descriptor.
    """
    fd = os.open(SHM_DIR / name, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def free_pages(name: str, offset: int, length: int, /) -> None:
    """Give the memory behind a range back to the kernel: it reads as zeros, and has to be backed again."""
    fd = os.open(SHM_DIR / name, os.O_RDWR | os.O_NOFOLLOW)
    try:
        with mmap.mmap(fd, length, offset=offset) as memory:
            memory.madvise(mmap.MADV_REMOVE)
    finally:
        os.close(fd)


def remove(name: str, /) -> None:
    """Unlink a segment; those who mapped it keep it until they drop it. It may be gone already."""
    (SHM_DIR / name).unlink(missing_ok=True)


def leftovers(prefix: str, /) -> list[str]:
    """The names of all segments that begin with `prefix`."""
    return sorted(path.name for path in SHM_DIR.glob(prefix + "*"))


def free_bytes() -> int:
    """What /dev/shm has free."""
    status = os.statvfs(SHM_DIR)
    return status.f_bavail * status.f_frsize
