"""All names that the bus uses in the file system, and the removal of what a killed run left behind.

<root>/<bus>/            0700
    start.lock           held by the process that starts the manager (filelock)
    manager.lock         held by the manager for its life: who gets it knows that no manager lives
    socket               where processes connect
    manager.log          the manager's warnings and last words
/dev/shm/ebmp-<hash of the directory>-<token>-<number>    segments; the token is new for each manager
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from eventbus_mp.errors import EventBusError
from eventbus_mp.memory import segment

__all__ = ["RunDir", "clean_all", "default_root"]

SEGMENT_PREFIX = "ebmp-"
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
            EventBusError: It exists and belongs to somebody else, or others may enter it.
        """
        try:
            for path in (self.root, self.path):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as cause:
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

    def start_lock(self, timeout_s: float) -> FileLock:
        return FileLock(self.path / "start.lock", timeout=timeout_s)

    def manager_lock(self, timeout_s: float) -> FileLock:
        return FileLock(self.path / "manager.lock", timeout=timeout_s)

    def log_tail(self, since: int = 0) -> str:
        """The end of the manager's log, of what was written after its first `since` bytes; empty when there is none."""
        try:
            return self.log.read_bytes()[since:][-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def remove_segments(self) -> list[str]:
        """Unlink every segment of this bus. Only for whoever holds the manager lock."""
        names = segment.leftovers(self.segment_prefix)
        for name in names:
            segment.remove(name)
        return names

    def remove_files(self) -> None:
        """Remove the directory, unless somebody is starting this bus at this moment. Only under the manager lock.

        Both locks are held while their files go, so nobody is left with a lock on a file that is no more.
        """
        start_lock = self.start_lock(0)
        try:
            with start_lock:
                for name in _FILES:
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()
        except (Timeout, OSError):
            return  # It is theirs.

    def clean(self) -> list[str] | None:
        """Remove what a killed run left; None when a manager lives and there is nothing to clean."""
        lock = self.manager_lock(0)
        try:
            lock.acquire()
        except Timeout:
            return None
        except FileNotFoundError:
            return []
        try:
            removed = self.remove_segments()
            self.remove_files()
        finally:
            lock.release()
        return removed


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
    left = names or segment.leftovers(RunDir(path.parent, path.name).segment_prefix)
    return bool(left) and names <= set(_FILES)
