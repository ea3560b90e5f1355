"""File systems of the calling process and its children: a /dev/shm of another size, or a small disk."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["may_mount", "mount_tmpfs", "own_mounts", "with_shared_memory"]

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def may_mount() -> bool:
    """Whether this process can have mounts of its own (tried in a child)."""
    pid = os.fork()
    if not pid:
        try:
            with_shared_memory("size=1m")
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def with_shared_memory(options: str, *, again: bool = False) -> None:
    """Put a tmpfs with these options on /dev/shm, in a mount namespace of this process; `again`: change it.

    Raises:
        OSError: It is not permitted.
    """
    if not again:
        own_mounts()
    mount_tmpfs(Path("/dev/shm"), options, again=again)


def own_mounts() -> None:
    """What this process mounts from now on is there for it and its children alone, and goes with them.

    Raises:
        OSError: It is not permitted.
    """
    _check(_libc.unshare(CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def mount_tmpfs(path: Path, options: str, *, again: bool = False, read_only: bool = False) -> None:
    """Put a tmpfs with these options there; `again`: change it."""
    flags = (MS_REMOUNT if again else 0) | (MS_RDONLY if read_only else 0)
    _check(_libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options.encode()))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
