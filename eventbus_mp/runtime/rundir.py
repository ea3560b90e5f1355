"""All names that the bus uses in the file system, and the removal of what a killed run left behind.

<root>/<bus>/            0700; the root is /dev/shm/ebmp-<uid> unless a setting names another one
    start.lock           held by the process that starts the manager
    manager.lock         held by the manager for its life: a process that gets it knows that no manager lives
    socket               a link to where processes connect
    manager.log          the manager's warnings, and its error if it ended with one
/dev/shm/ebmp-<hash of the directory>-<token>-<number>    segments; the token is new for each manager
/dev/shm/ebmp-<hash of the directory>-<token>-socket      where processes connect
/dev/shm/ebmp-<hash of the directory>-<token>-claim       locked (flock) as long as the manager or its standby lives

All that share the memory share the default root, whatever their environment says: no variable names it, no cleaner of
temporary files takes it, and no logout.

The claim is the witness that a bus lives: the kernel unlocks it when the manager and its standby are dead, however they
died. The names beside it follow from the name of the run directory. So even if that, or a file in it, was removed, the
bus is found, and neither a second manager nor `clean` takes it for dead.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import stat
import time
from contextlib import AbstractContextManager
from pathlib import Path

from eventbus_mp.errors import EventBusError
from eventbus_mp.memory.shm import SHARED_MEMORY, SHM_DIR
from eventbus_mp.runtime.filelocks import LifeLock, held_for_life, held_while_starting

__all__ = ["Claim", "RunDir", "clean_all", "clean_homeless", "dead_segments", "default_root"]

SEGMENT_PREFIX = "ebmp-"
CLAIM = "claim"
SOCKET = "socket"
LOG_TAIL_BYTES = 4_000
LOOK_S = 0.02
_FILES = ("socket", "manager.log", "manager.lock", "start.lock")


def default_root() -> Path:
    """The directory of this user's buses, beside their memory."""
    return SHM_DIR / f"{SEGMENT_PREFIX}{os.getuid()}"


class RunDir:
    """The directory of one bus."""

    def __init__(self, root: str | os.PathLike[str] | None, bus: str) -> None:
        # Absolute: the manager runs in another working directory.
        self.root = (Path(root).expanduser() if root else default_root()).absolute()
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
        return f"{SEGMENT_PREFIX}{hashlib.sha256(os.fsencode(identity)).hexdigest()[:12]}-"

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
            if isinstance(cause, FileExistsError) and self.root.is_dir() and not os.path.lexists(self.path):
                raise FileNotFoundError(f"{self.path} was removed by a manager that has just left") from cause
            raise EventBusError(
                f"the run directory {self.path} cannot be created: {cause}; set BusConfig.run_dir to another one"
            ) from cause
        if self.root == default_root():
            _make_private(self.root)  # Anybody can make a directory of this name.
        _make_private(self.path)

    def open(self) -> int:
        """A descriptor of the directory, by which `is_still` knows it again."""
        return os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def is_still(self, fd: int) -> bool:
        """Whether the directory is the one that was opened, and was not removed, and perhaps made anew, meanwhile."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

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

    def living_socket(self) -> Path | None:
        """The socket of this bus's living manager, even if the run directory is gone; None: no manager lives."""
        return next((SHM_DIR / f"{bus}{SOCKET}" for bus in _living(self.segment_prefix)), None)

    def is_elsewhere(self) -> bool:
        """Whether a manager lives that has another /dev/shm, as in a container that shares only the run directory."""
        if not self.socket.is_symlink() or self.socket.exists():
            return False
        return _is_locked(self.path / "manager.lock") and self.living_socket() is None

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
            if self.living_socket() is not None:
                return None  # Its lock was removed, and it lives.
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

    @property
    def socket(self) -> Path:
        """Where the manager listens."""
        return SHM_DIR / f"{self.prefix}{SOCKET}"

    def is_alone(self, bus_prefix: str, timeout_s: float) -> bool:
        """Whether no other manager of the same bus lives; waits for one that is about to leave."""
        deadline = time.monotonic() + timeout_s
        while any(prefix != self.prefix for prefix in _living(bus_prefix)):
            if time.monotonic() >= deadline:
                return False
            select.select((), (), (), LOOK_S)
        return True

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
        removed += [name for name in mine if not name.endswith(SOCKET)]
        if claim >= 0:
            SHARED_MEMORY.remove(f"{bus}-{CLAIM}")
            os.close(claim)
    return removed


def _living(prefix: str) -> list[str]:
    """What the names of living buses begin with whose names begin with `prefix`."""
    claims = [name for name in SHARED_MEMORY.leftovers(prefix) if name.endswith(f"-{CLAIM}")]
    return [name.removesuffix(CLAIM) for name in claims if _is_locked(SHM_DIR / name)]


def _is_locked(path: Path) -> bool:
    """Whether a process of this user holds the lock of a file of this user."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_uid == os.getuid():
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _make_private(path: Path) -> None:
    """Close the directory to other users.

    Raises:
        EventBusError: It is not a directory of this user.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise EventBusError(f"{path} is not a directory of user {os.getuid()}; set BusConfig.run_dir to another one")
    if status.st_mode & 0o077:
        os.chmod(path, 0o700)


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
    base = Path(root) if root else default_root()
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


def dead_segments() -> list[Path]:
    """What buses of this user that have no manager any more left in /dev/shm; nothing is removed."""
    names = [name for name in SHARED_MEMORY.leftovers(SEGMENT_PREFIX) if name.count("-") >= 3]
    buses = {name.rpartition("-")[0] for name in names}
    dead = {bus for bus in buses if not _is_locked(SHM_DIR / f"{bus}-{CLAIM}")}
    return [SHM_DIR / name for name in names if name.rpartition("-")[0] in dead and _is_ours(SHM_DIR / name)]


def _is_ours(path: Path) -> bool:
    try:
        return os.lstat(path).st_uid == os.getuid()
    except FileNotFoundError:
        return False


def clean_homeless() -> list[str]:
    """Remove the segments of dead managers whose run directory is gone or lies elsewhere, and return their names."""
    return _remove_dead(SEGMENT_PREFIX, unclaimed=False)
