"""All names that the bus uses in the file system, and the removal of what a killed run left behind.

<root>/<bus>/            0700
    start.lock           held by the process that starts the manager
    manager.lock         held by the manager for its life: who gets it knows that no manager lives
    socket               where processes connect
    manager.log          the manager's warnings and last words
/dev/shm/ebmp-<hash of the directory>-<token>-<number>    segments; the token is new for each manager
/dev/shm/ebmp-<hash of the directory>-<token>-claim       locked (flock) as long as the manager or its standby lives

So whoever finds a segment can tell whether its bus lives, also when the run directory is gone: the claim of a dead one
is not locked, and the kernel unlocks it however they died.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus_mp.errors import EventBusError
from eventbus_mp.memory import shm
from eventbus_mp.runtime.filelocks import held_for_life, held_while_starting

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Claim", "RunDir", "clean_all", "clean_homeless", "default_root"]

SEGMENT_PREFIX = "ebmp-"
CLAIM = "claim"
LOG_TAIL_BYTES = 4_000
_FILES = ("socket", "manager.log", "manager.lock", "start.lock")


def default_root() -> Path:
    """`$XDG_RUNTIME_DIR/eventbus_mp`, or a directory of this user's in the temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return Path(runtime) / "eventbus_mp"
    return Path(tempfile.gettempdir()) / f"eventbus_mp-{os.getuid()}"


class RunDir:
    """The directory of one bus."""

    def __init__(self, root: str | os.PathLike[str] | None, bus: str) -> None:
        # Absolute: the manager runs in another working directory.
        self.root = (Path(root) if root is not None else default_root()).absolute()
        self.bus = bus
        self.path = self.root / bus

    @property
    def socket(self) -> Path:
        return self.path / "socket"

    @property
    def log(self) -> Path:
        return self.path / "manager.log"

    @property
    def segment_prefix(self) -> str:
        """What the names of all segments of this bus begin with, whichever manager made them."""
        identity = f"{os.getuid()}:{self.path.resolve()}"
        return f"{SEGMENT_PREFIX}{hashlib.sha256(identity.encode()).hexdigest()[:12]}-"

    def create(self) -> None:
        """Make the directory, private to this user.

        Raises:
            FileNotFoundError: A manager that left just now took it away again.
            EventBusError: It exists and belongs to somebody else, or others may enter it.
        """
        try:
            for path in (self.root, self.path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as cause:
            if isinstance(cause, FileExistsError) and not os.path.lexists(self.path):
                raise FileNotFoundError(f"{self.path} was there, and is gone") from cause
            raise EventBusError(
                f"the run directory {self.path} cannot be made: {cause}; set BusConfig.run_dir to another one"
            ) from cause
        status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise EventBusError(
                f"{self.path} is not a directory of user {os.getuid()}; set BusConfig.run_dir to another one"
            )
        if status.st_mode & 0o077:
            os.chmod(self.path, 0o700)

    def start_lock(self, timeout_s: float) -> AbstractContextManager[None]:
        return held_while_starting(self.path / "start.lock", timeout_s)

    def manager_lock(self, timeout_s: float) -> BaseFileLock:
        return held_for_life(self.path / "manager.lock", timeout_s)

    def log_tail(self, since: int = 0) -> str:
        """The end of the manager's log, of what was written after its first `since` bytes; empty when there is none."""
        try:
            return self.log.read_bytes()[since:][-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def claim_segments(self) -> Claim:
        """Names for a new manager's segments. The claim lasts until it and every process forked meanwhile are gone."""
        while True:
            claim = Claim(f"{self.segment_prefix}{os.urandom(4).hex()}-")
            if claim.is_ours():
                return claim
            claim.release()  # Somebody cleaned just between its making and its locking.

    def remove_segments(self) -> list[str]:
        """Unlink every segment that a dead manager of this bus left: their names. Only under the manager lock."""
        return _remove_dead(self.segment_prefix, unclaimed=True)

    def remove_files(self) -> None:
        """Remove the directory, unless somebody is starting this bus at this moment. Only under the manager lock.

        Both locks are held while their files go, so nobody is left with a lock on a file that is no more.
        """
        try:
            with self.start_lock(0):
                for name in _FILES:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
        except OSError:  # A TimeoutError, too.
            return  # It is theirs.

    def clean(self) -> list[str] | None:
        """Remove what a killed run left; None when a manager lives and there is nothing to clean."""
        lock = self.manager_lock(0)
        try:
            lock.acquire()
        except TimeoutError:
            return None
        except FileNotFoundError:
            return []
        try:
            removed = self.remove_segments()
            self.remove_files()
        finally:
            lock.release()
        return removed


class Claim:
    """The right to the names that begin with `prefix`. Forked processes share it; it ends with the last of them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._path = shm.SHM_DIR / f"{prefix}{CLAIM}"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def is_ours(self) -> bool:
        """Whether the file that is locked is still there."""
        return os.fstat(self._fd).st_nlink > 0

    def release(self) -> None:
        """Remove every segment of these names, and then the claim."""
        for name in shm.leftovers(self.prefix):
            if not name.endswith(CLAIM):
                shm.remove(name)
        if self.is_ours():
            self._path.unlink()
        os.close(self._fd)


def _remove_dead(prefix: str, *, unclaimed: bool) -> list[str]:
    """Unlink segments whose names begin with `prefix` and whose claim is a dead manager's, or (`unclaimed`) missing."""
    removed = []
    names = [name for name in shm.leftovers(prefix) if name.count("-") >= 3]
    for bus in dict.fromkeys(name.rpartition("-")[0] for name in names):
        mine = [name for name in names if name.rpartition("-")[0] == bus and not name.endswith(CLAIM)]
        claim = _lock_if_dead(shm.SHM_DIR / f"{bus}-{CLAIM}")
        if claim is None or (claim < 0 and not unclaimed):
            continue
        for name in mine:
            shm.remove(name)
        removed += mine
        if claim >= 0:
            shm.remove(f"{bus}-{CLAIM}")
            os.close(claim)
    return removed


def _lock_if_dead(path: Path) -> int | None:
    """Lock a dead manager's claim: a descriptor, or -1 when there is none; None when it lives, or is another user's."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    except OSError:
        return None
    try:
        if os.fstat(fd).st_uid != os.getuid():
            raise BlockingIOError
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def clean_all(root: str | os.PathLike[str] | None) -> dict[str, list[str] | None]:
    """`RunDir.clean` for every bus below `root`: bus -> removed segments, or None where a manager lives."""
    base = Path(root) if root is not None else default_root()
    if not base.is_dir():
        return {}
    return {path.name: RunDir(base, path.name).clean() for path in sorted(base.iterdir()) if _is_bus(path)}


def _is_bus(path: Path) -> bool:
    """Whether it is a bus's directory, with nothing in it but a bus's files. Any other one is not ours to clean."""
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        return False
    names = {child.name for child in path.iterdir()}
    left = names or shm.leftovers(RunDir(path.parent, path.name).segment_prefix)
    return bool(left) and names <= set(_FILES)


def clean_homeless() -> list[str]:
    """Remove the segments of dead managers whose run directory is gone, or somewhere else: their names."""
    return _remove_dead(SEGMENT_PREFIX, unclaimed=False)
