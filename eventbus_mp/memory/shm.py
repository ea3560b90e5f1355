"""Segments in shared memory. This is the only file that imports `multiprocessing.shared_memory`.

The bus removes its segments itself, so Python's resource tracker must not know them: it would unlink a segment as soon
as the first process that attached it exits (cpython issue 82300). From Python 3.13 on, `track=False` sees to that;
before, `_Untracked` does what `SharedMemory.__init__` does, without the registration. Nothing is patched.

A mapping is handed out as a memoryview, and lives as long as that view or one derived from it; a descriptor, which
Python's mmap duplicates, goes with it. There is no `close()` that could find views still open (cpython issue 155003).
"""

from __future__ import annotations

import mmap
import os
import sys
from multiprocessing import shared_memory
from pathlib import Path

__all__ = ["SHARED_MEMORY", "SHM_DIR", "SharedMemoryStore"]

SHM_DIR = Path("/dev/shm")

if sys.version_info >= (3, 13):

    def _open(name: str) -> shared_memory.SharedMemory:
        return shared_memory.SharedMemory(name, track=False)

else:
    import _posixshmem  # type: ignore[import-not-found,unused-ignore]

    class _Untracked(shared_memory.SharedMemory):
        """`SharedMemory` of Python 3.10 to 3.12, attached without the resource tracker's knowledge."""

        def __init__(self, name: str) -> None:
            self._name = "/" + name
            self._fd = _posixshmem.shm_open(self._name, os.O_RDWR, mode=0o600)
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
            self._buf = memoryview(self._mmap)

    def _open(name: str) -> shared_memory.SharedMemory:
        return _Untracked(name)


class SharedMemoryStore:
    """A `SegmentStore` over /dev/shm, private to this user. All state is the kernel's, so any instance sees the same.

    To write where no memory is backed may end in SIGBUS, which kills the process: hence `back`, and hence `read`, which
    copies through the file and cannot be hit by it.
    """

    def create(self, name: str, length: int) -> None:
        fd = os.open(SHM_DIR / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, length)
        except OSError:
            self.remove(name)
            raise
        finally:
            os.close(fd)

    def attach(self, name: str) -> memoryview:
        shared = _open(name)
        view = shared.buf
        # Take the mapping away from the object: its close() and __del__ would fail because of our views, or unmap the
        # memory below them.
        fd, shared._fd = shared._fd, -1  # type: ignore[attr-defined]
        shared._buf = shared._mmap = None  # type: ignore[attr-defined]
        os.close(fd)
        assert view is not None
        return view

    def back(self, name: str, offset: int, length: int) -> None:
        fd = os.open(SHM_DIR / name, os.O_RDWR | os.O_NOFOLLOW)
        try:
            # The kernel would make the segment longer, by memory that no mapping of it shows.
            if not 0 <= offset <= offset + length <= os.fstat(fd).st_size:
                raise ValueError(f"{length} bytes from {offset} are not inside segment {name}")
            os.posix_fallocate(fd, offset, length)
        finally:
            os.close(fd)

    def read(self, name: str, offset: int, length: int) -> bytes:
        fd = os.open(SHM_DIR / name, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def free_pages(self, name: str, offset: int, length: int) -> None:
        fd = os.open(SHM_DIR / name, os.O_RDWR | os.O_NOFOLLOW)
        try:
            with mmap.mmap(fd, length, offset=offset) as memory:
                memory.madvise(mmap.MADV_REMOVE)
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        (SHM_DIR / name).unlink(missing_ok=True)

    def leftovers(self, prefix: str) -> list[str]:
        return sorted(name for name in os.listdir(SHM_DIR) if name.startswith(prefix))

    def free_bytes(self) -> int:
        status = os.statvfs(SHM_DIR)
        return status.f_bavail * status.f_frsize


SHARED_MEMORY = SharedMemoryStore()
