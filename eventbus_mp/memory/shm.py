"""Segments in shared memory. This is the only file that imports `multiprocessing.shared_memory`.

The bus removes its segments itself, so Python's resource tracker must not know them: it would unlink a segment as soon
as the first process that attached it exits (cpython issue 82300). From Python 3.13 on, `track=False` sees to that;
before, `Untracked` does what `SharedMemory.__init__` does, without the registration. Nothing is patched.

A mapping is handed out as a memoryview, and lives as long as that view or one derived from it; a descriptor, which
Python's mmap duplicates, goes with it. There is no `close()` that could find views still open (cpython issue 155003).
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.shared_memory import SharedMemory

__all__ = ["SHARED_MEMORY", "SHM_DIR", "SharedMemoryStore", "load_opener"]

SHM_DIR = Path("/dev/shm")


class SharedMemoryStore:
    """A `SegmentStore` over /dev/shm, private to this user. All state is the kernel's, so any instance sees the same.

    A segment that lies in a file has a symbolic link to it in /dev/shm, by which everybody finds it.

    To write where no memory is backed may end in SIGBUS, which kills the process: hence `back`, and hence `read`, which
    copies through the file and cannot be hit by it.
    """

    def create(self, name: str, length: int, directory: str | None = None) -> None:
        path = SHM_DIR / name if directory is None else self._link(name, directory)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, length)
        except OSError:
            self.remove(name)
            raise
        finally:
            os.close(fd)

    @staticmethod
    def _link(name: str, directory: str) -> Path:
        """Where the file of this segment is to be; the link to it is made first, so that no file is without one."""
        path = Path(directory).absolute() / name
        try:
            (SHM_DIR / name).symlink_to(path)
        except FileExistsError:
            if path.exists() or _file_behind(name) is None:
                raise  # else: the process that made the link was killed before it made the file.
        return path

    def attach(self, name: str) -> memoryview:
        if _file_behind(name) is not None:
            fd = _open_segment(name, os.O_RDWR)
            try:
                return memoryview(mmap.mmap(fd, os.fstat(fd).st_size))
            finally:
                os.close(fd)
        shared = _opener()(name)
        view = shared.buf
        # Take the mapping away from the object: its close() and __del__ would fail because of our views, or unmap the
        # memory below them.
        fd, shared._fd = shared._fd, -1  # type: ignore[attr-defined]
        shared._buf = shared._mmap = None  # type: ignore[attr-defined]
        os.close(fd)
        assert view is not None
        return view

    def back(self, name: str, offset: int, length: int) -> None:
        fd = _open_segment(name, os.O_RDWR)
        try:
            # The kernel would make the segment longer, by memory that no mapping of it shows.
            if not 0 <= offset <= offset + length <= os.fstat(fd).st_size:
                raise ValueError(f"{length} bytes from {offset} are not inside segment {name}")
            if _file_behind(name) is not None:
                _check_room(fd, length)
            os.posix_fallocate(fd, offset, length)
        except OSError as error:
            error.filename = os.path.realpath(SHM_DIR / name)
            raise
        finally:
            os.close(fd)

    def read(self, name: str, offset: int, length: int) -> bytes:
        fd = _open_segment(name, os.O_RDONLY)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def free_pages(self, name: str, offset: int, length: int) -> None:
        fd = _open_segment(name, os.O_RDWR)
        try:
            with mmap.mmap(fd, length, offset=offset) as memory:
                memory.madvise(mmap.MADV_REMOVE)
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        file = _file_behind(name)
        if file is not None:
            file.unlink(missing_ok=True)
        (SHM_DIR / name).unlink(missing_ok=True)

    def leftovers(self, prefix: str) -> list[str]:
        return sorted(name for name in os.listdir(SHM_DIR) if name.startswith(prefix))

    def free_bytes(self) -> int:
        status = os.statvfs(SHM_DIR)
        return status.f_bavail * status.f_frsize


def load_opener() -> None:
    """Import what opens segments, in a process that is going to.

    Not with the first one: if another thread forks meanwhile, the child has the lock of that import for ever.
    """
    _opener()


@cache
def _opener() -> Callable[[str], SharedMemory]:
    """What opens a segment that is there. It takes 6 ms to import, and a manager may never need it."""
    from multiprocessing.shared_memory import SharedMemory

    if sys.version_info >= (3, 13):
        return partial(SharedMemory, track=False)

    import _posixshmem  # type: ignore[import-not-found,unused-ignore]

    class Untracked(SharedMemory):
        """`SharedMemory` of Python 3.10 to 3.12, attached without the resource tracker's knowledge."""

        def __init__(self, name: str) -> None:
            self._name = "/" + name
            self._fd = _posixshmem.shm_open(self._name, os.O_RDWR, mode=0o600)
            self._size = os.fstat(self._fd).st_size
            self._mmap = mmap.mmap(self._fd, self._size)
            self._buf = memoryview(self._mmap)

    return Untracked


def _file_behind(name: str) -> Path | None:
    """The file that a segment lies in; None: it lies in shared memory, or nowhere."""
    try:
        return Path(os.readlink(SHM_DIR / name))
    except FileNotFoundError:  # Another thread, or the standby, has removed it.
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None  # It is not a link.


def _open_segment(name: str, flags: int) -> int:
    """A descriptor of a segment, wherever it lies."""
    return os.open(_file_behind(name) or SHM_DIR / name, flags | os.O_NOFOLLOW)


def _check_room(fd: int, length: int) -> None:
    """Refuse what the file system has no room for: on a disk, a reservation that fails keeps what it has got so far."""
    status = os.fstatvfs(fd)
    if status.f_bavail * status.f_frsize < length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


SHARED_MEMORY = SharedMemoryStore()
