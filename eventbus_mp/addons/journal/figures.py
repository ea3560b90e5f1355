"""What a journal's process knows of itself, in a small file: metrics and the page read it, and ask neither the process
nor the store. So it can be read when the store is away, or when the process hangs.

The file is beside a SQLite store, or in the user's state directory. It has one writer, the process that writes to the
store; it is written over in place, so a full disk does not matter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from eventbus_mp.addons.journal.opening import SQLITE, state_directory
from eventbus_mp.addons.journal.urls import shown_url

__all__ = ["BUCKETS", "Figures", "FiguresFile", "figures_path", "read_figures"]

log = logging.getLogger("eventbus_mp.journal")

FILE_BYTES = 8_192
TEXT_LENGTH_MAX = 200
"""Of each text, so that all of it has room however it is escaped."""
QUIET_S = 30.0
"""A writer notes something every few seconds, even if its store is away or busy."""
BUCKETS = 36
"""Element k of `Figures.commit_log2_ns` counts commits of less than 2^k ns; the last one has all that took longer."""
READS = 5


@dataclass(frozen=True)
class Figures:
    """What a journal has done since its process began, and how it is."""

    bus: str
    name: str
    """Of its subscriber."""
    pid: int
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    commits: int = 0
    commit_ns: int = 0
    """In storing, all commits together."""
    commit_log2_ns: tuple[int, ...] = (0,) * BUCKETS
    position: int = 0
    """The last one in the store."""
    store_bytes: int = 0
    spooled: int = 0
    """Events in the spool, which are not in the store yet."""
    error: str = ""
    """Why the store does not take events; empty: it does."""
    failing_since_ns: int = 0
    """Since when it does not. This and the next two are times of `CLOCK_MONOTONIC`, which all processes share."""
    caught_up_ns: int = 0
    """Everything that had come to the journal by then is stored."""
    noted_ns: int = 0
    has_ended: bool = False

    @property
    def is_running(self) -> bool:
        """Whether a process has noted something lately: it was neither stopped nor killed, and does not hang."""
        return not self.has_ended and 0 <= time.monotonic_ns() - self.noted_ns < QUIET_S * 1e9

    @property
    def lag_s(self) -> float:
        """How old is what waits to be stored, at most, in seconds."""
        return max(0, time.monotonic_ns() - self.caught_up_ns) / 1e9

    @property
    def failing_s(self) -> float:
        """For how long the store has not taken events, in seconds; 0: it does."""
        return max(0, time.monotonic_ns() - self.failing_since_ns) / 1e9 if self.error else 0.0


def figures_path(url: str) -> Path:
    """Where the figures of the journal of a store are."""
    if url.startswith(SQLITE):
        return Path(f"{unquote(url.removeprefix(SQLITE))}.figures").absolute()
    return state_directory() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.figures"


def read_figures(url: str) -> Figures | None:
    """What the journal of a store notes of itself; None: there is none on this machine. Costs a read of 8 KiB.

    It may be of a journal that runs no more: see `Figures.is_running`.
    """
    for _ in range(READS):
        try:
            text = figures_path(url).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            log.info("the figures of %s cannot be read: %s", shown_url(url), error)
            return None
        found = _parsed(text)
        if found is not None:
            return found  # Else it was being written at this moment.
    return None


def _parsed(text: bytes) -> Figures | None:
    checksum, _, body = text.rstrip().partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        fields = json.loads(body)
        return Figures(**{**fields, "commit_log2_ns": tuple(fields["commit_log2_ns"])})
    except (ValueError, TypeError, KeyError):
        return None  # Of another version.


class FiguresFile:
    """The file, for its one writer. What goes wrong with it is logged once; the journal goes on without.

    Args:
        url: Of the store, whose lock is held.
        figures: What is known at the beginning.
    """

    def __init__(self, url: str, figures: Figures) -> None:
        self.figures = replace(figures, name=figures.name[:TEXT_LENGTH_MAX], caught_up_ns=time.monotonic_ns())
        self._fd: int | None = None
        path = figures_path(url)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.posix_fallocate(self._fd, 0, FILE_BYTES)  # Or a full disk would be noticed in the middle.
        except OSError as error:
            self._give_up(error)
        else:
            self.note()

    def note(self, **changed: object) -> None:
        """Write the figures, with what has changed; 20 us."""
        self.figures = replace(self.figures, **changed, noted_ns=time.monotonic_ns())  # type: ignore[arg-type]
        if self._fd is None:
            return
        body = json.dumps(vars(self.figures), separators=(",", ":")).encode()
        text = b"%08x %b" % (zlib.crc32(body), body)
        try:
            os.pwrite(self._fd, text.ljust(FILE_BYTES), 0)
        except OSError as error:
            self._give_up(error)

    def note_failure(self, error: Exception) -> None:
        """Note that the store does not take events, and why."""
        since_ns = self.figures.failing_since_ns if self.figures.error else time.monotonic_ns()
        self.note(error=str(error)[:TEXT_LENGTH_MAX] or type(error).__name__, failing_since_ns=since_ns)

    def close(self) -> None:
        """Note the end; the file stays."""
        self.note(has_ended=True)
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _give_up(self, error: OSError) -> None:
        log.warning("the figures of this journal are not noted, so metrics and the page lack them: %s", error)
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
