"""All names that the bus uses in the file system, and the removal of what a killed run left behind.

<root>/<bus>/            0700
    start.lock           held by the process that starts the manager
    manager.lock         held by the manager for its life: a process that gets it knows that no manager lives
    socket               where processes connect
    manager.log          the manager's warnings, and its error if it ended with one
/dev/shm/ebmp-<hash of the directory>-<token>-<number>    segments; the token is new for each manager
/dev/shm/ebmp-<hash of the directory>-<token>-claim       locked (flock) as long as the manager or its standby lives

A process that finds a segment can thus see whether the segment's bus lives, even after the run directory was removed:
the claim of a dead bus is not locked, because the kernel unlocks it however the manager and its standby died.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from eventbus_mp.errors import EventBusError
from eventbus_mp.memory.shm import SHARED_MEMORY, SHM_DIR
from eventbus_mp.runtime.filelocks import LifeLock, held_for_life, held_while_starting

__all__ = ["Claim", "RunDir", "clean_all", "clean_homeless", "default_root"]

SEGMENT_PREFIX = "ebmp-"
CLAIM = "claim"
LOG_TAIL_BYTES = 4_000
_FILES = ("socket", "manager.log", "manager.lock", "start.lock")


def default_root() -> Path:
    """`$XDG_RUNTIME_DIR/eventbus_mp`, or else `eventbus_mp-<uid>` in the temporary directory."""
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
        """The beginning of the names of all segments of this bus, whichever manager made them."""
        identity = f"{os.getuid()}:{self.path.resolve()}"
        return f"{SEGMENT_PREFIX}{hashlib.sha256(identity.encode()).hexdigest()[:12]}-"

    def create(self) -> None:
        """Create the directory, and make it private to this user.

        Raises:
            FileNotFoundError: A manager that has just left removed it again.
            EventBusError: It cannot be created, is not a directory, or belongs to another user.
        """
        try:
            for path in (self.root, self.path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as cause:
            if isinstance(cause, FileExistsError) and not os.path.lexists(self.path):
                raise FileNotFoundError(f"{self.path} was removed by a manager that has just left") from cause
            raise EventBusError(
                f"the run directory {self.path} cannot be created: {cause}; set BusConfig.run_dir to another one"
            ) from cause
        status = os.lstat(self.path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise EventBusError(
                f"{self.path} is not a directory of user {os.getuid()}; set BusConfig.run_dir to another one"
            )
        if status.st_mode & 0o077:
            os.chmod(self.path, 0o700)

    def start_lock(self, timeout_s: float) -> AbstractContextManager[None]:
        """The lock under which a manager is started: see `held_while_starting`."""
        return held_while_starting(self.path / "start.lock", timeout_s)

    def manager_lock(self, timeout_s: float) -> LifeLock:
        """The lock that a manager holds for its life: see `held_for_life`."""
        return held_for_life(self.path / "manager.lock", timeout_s)

    def log_tail(self, since: int = 0) -> str:
        """The end of the manager's log, without its first `since` bytes; empty if there is no log."""
        try:
            return self.log.read_bytes()[since:][-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def claim_segments(self) -> Claim:
        """Names for a new manager's segments.

        The claim lasts until the manager, and every process that it forks, has ended.
        """
        while True:
            claim = Claim(f"{self.segment_prefix}{os.urandom(4).hex()}-")
            if claim.is_ours():
                return claim
            claim.release()  # Another process cleaned just after it was created and before it was locked.

    def remove_segments(self) -> list[str]:
        """Unlink every segment that a dead manager of this bus left, and return their names.

        Only for a process that holds the manager lock.
        """
        return _remove_dead(self.segment_prefix, unclaimed=True)

    def remove_files(self) -> None:
        """Remove the directory, unless another process is starting this bus at this moment.

        Only for a process that holds the manager lock. Both locks are held while their files are removed, so no process
        is left with the lock of a file that no longer exists.
        """
        try:
            with self.start_lock(0):
                for name in _FILES:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
        except OSError:  # Which a TimeoutError is as well.
            return  # The directory belongs to the process that is starting the bus.

    def clean(self) -> list[str] | None:
        """Remove what a killed run left, and return the names of its segments; None if a manager lives."""
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
    """The right to all segment names that begin with `prefix`.

    Forked processes share it, and it ends with the last of them.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._path = SHM_DIR / f"{prefix}{CLAIM}"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def is_ours(self) -> bool:
        """Whether the locked file still exists."""
        return os.fstat(self._fd).st_nlink > 0

    def release(self) -> None:
        """Remove every segment with such a name, and then the claim."""
        for name in SHARED_MEMORY.leftovers(self.prefix):
            if not name.endswith(CLAIM):
                SHARED_MEMORY.remove(name)
        if self.is_ours():
            self._path.unlink()
        os.close(self._fd)


def _remove_dead(prefix: str, *, unclaimed: bool) -> list[str]:
    """Unlink the segments of dead managers whose names begin with `prefix`, and return their names.

    A manager is dead if its claim is not locked, or (`unclaimed`) is missing.
    """
    removed = []
    names = [name for name in SHARED_MEMORY.leftovers(prefix) if name.count("-") >= 3]
    for bus in dict.fromkeys(name.rpartition("-")[0] for name in names):
        mine = [name for name in names if name.rpartition("-")[0] == bus and not name.endswith(CLAIM)]
        claim = _lock_if_dead(SHM_DIR / f"{bus}-{CLAIM}")
        if claim is None or (claim < 0 and not unclaimed):
            continue
        for name in mine:
            SHARED_MEMORY.remove(name)
        removed += mine
        if claim >= 0:
            SHARED_MEMORY.remove(f"{bus}-{CLAIM}")
            os.close(claim)
    return removed


def _lock_if_dead(path: Path) -> int | None:
    """Lock a dead manager's claim, and return its descriptor.

    -1: there is no such file. None: the manager lives, or belongs to another user.
    """
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
    """Call `RunDir.clean` for every bus below `root`: bus -> removed segments, or None where a manager lives."""
    base = Path(root) if root is not None else default_root()
    if not base.is_dir():
        return {}
    return {path.name: RunDir(base, path.name).clean() for path in sorted(base.iterdir()) if _is_bus(path)}


def _is_bus(path: Path) -> bool:
    """Whether it is a bus's directory and holds nothing but a bus's files. No other one may be cleaned."""
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        return False
    names = {child.name for child in path.iterdir()}
    left = names or SHARED_MEMORY.leftovers(RunDir(path.parent, path.name).segment_prefix)
    return bool(left) and names <= set(_FILES)


def clean_homeless() -> list[str]:
    """Remove the segments of dead managers whose run directory is gone or lies elsewhere, and return their names."""
    return _remove_dead(SEGMENT_PREFIX, unclaimed=False)
