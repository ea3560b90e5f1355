"""The files of a SQLite store: where they are, who may read them, who writes, and whether they are still the same."""

from __future__ import annotations

import fcntl
import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path

from eventbus_mp.addons.journal.store import StoreUnavailable, StoreUnusable

__all__ = ["WriterLock", "check_file_system", "file_system_of", "frozen_state", "identity_of", "prepare"]

NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs4?|cifs|smb3|smbfs|9p|afs|ceph|glusterfs|lustre|gpfs|beegfs|ocfs2|gfs2|fuse\.(sshfs|s3fs|rclone|glusterfs)"
)
"""Where the locks and the shared memory that the write-ahead log needs do not reach other machines, or not at all."""
_ESCAPE = re.compile(r"\\([0-7]{3})")


def prepare(path: Path) -> None:
    """Have a file there that only its user can read, and its directory.

    SQLite gives its other files the mode of this one, so the mode has to be right before it first opens it. A log that
    is there already, beside a file that is new, would be read as that of the new one: it is renamed.

    Raises:
        StoreUnavailable: It cannot be made.
        StoreUnusable: It is on a network file system, or something else than a file is there.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_file_system(path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            _put_log_aside(path)
        except FileExistsError:
            _check_is_file(path)
            # SQLite would open it for reading, and say so only when something is written.
            if not os.access(path, os.W_OK):
                raise StoreUnavailable(f"{path} is read-only") from None
    except OSError as cause:
        raise StoreUnavailable(f"{path} cannot be made: {cause.strerror or cause}") from cause


def _put_log_aside(path: Path) -> None:
    log = Path(f"{path}-wal")
    if log.exists():
        log.replace(f"{log}.left")
    Path(f"{path}-shm").unlink(missing_ok=True)


def _check_is_file(path: Path) -> None:
    # Never opened here: to close it would drop the locks that another connection of this process has on it.
    if not path.is_file():
        raise StoreUnusable(f"{path} is not a file; give the path of one, which may not exist yet")


def check_file_system(path: Path, mounts: str | None = None) -> None:
    """Refuse what a write-ahead log is not safe on.

    Args:
        path: Of the file, which may not exist yet.
        mounts: The text of /proc/self/mountinfo; None: it is read.

    Raises:
        StoreUnusable: The path is on a network file system.
    """
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape") if mounts is None else mounts
    kind = file_system_of(path.resolve() if mounts is None else path, text)
    if NETWORK_FILE_SYSTEMS.fullmatch(kind):
        raise StoreUnusable(f"{path} is on a network file system ({kind}), where SQLite is not safe; use a local disk")


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that a path without links is on, by the text of mountinfo; empty: it is not there."""
    above = {str(path), *map(str, path.parents)}
    # Of two on one point, the later one covers the other; `max` takes the first of equals.
    found = [(len(point), kind) for point, kind in _mounts(mounts) if point in above]
    return max(reversed(found), key=lambda one: one[0], default=(0, ""))[1]


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 4 and after:
            yield _ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[4]), after.split(" ")[0]


def identity_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one in its place; None: it is gone."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def frozen_state(path: Path) -> tuple[int, int] | None:
    """What changes when a file that nobody writes is written after all; None: it may be written at any time.

    On a read-only file system, as of a copy that is mounted to be looked at, SQLite could not make the log that it
    looks into before it reads. It has to be told that there is none.

    Raises:
        StoreUnavailable: There is one, and it cannot be read either.
    """
    try:
        found, is_read_only = os.stat(path), os.statvfs(path).f_flag & os.ST_RDONLY
    except FileNotFoundError:
        return None
    if not is_read_only or Path(f"{path}-shm").exists():
        return None  # The writer of a log shares its index, and that is enough to read it.
    if Path(f"{path}-wal").exists():
        raise StoreUnavailable(f"{path} is on a read-only disk, where its log cannot be read: copy it with its -wal")
    return found.st_mtime_ns, found.st_size


class WriterLock:
    """The lock of the one writer, on a file of its own beside the store's: SQLite's own locks are on that one.

    The kernel gives it up with the process. A forked child lets go of its copy, or it would keep a dead parent's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        _locks.add(self)

    @property
    def is_held(self) -> bool:
        return self._fd >= 0

    @property
    def is_current(self) -> bool:
        """Whether it is held, on the file that is there: the lock of one that was removed excludes nobody."""
        if self._fd < 0:
            return False
        found = os.fstat(self._fd)
        return identity_of(self._path) == (found.st_dev, found.st_ino)

    def take(self) -> bool:
        """Whether it is held now; does not wait.

        Raises:
            StoreUnavailable: Its file cannot be made.
        """
        if self.is_current:
            return True
        self.release()
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as cause:
            raise StoreUnavailable(f"{self._path} cannot be opened: {cause.strerror or cause}") from cause
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return self.is_current

    def release(self) -> None:
        """Give it up; repeated, it does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # A child that was just forked may have a copy, which closing alone would leave locked.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def forget(self) -> None:
        """In a forked child: let go of the copy; the parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_locks: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in tuple(_locks):
        lock.forget()


os.register_at_fork(after_in_child=_let_go_in_child)
