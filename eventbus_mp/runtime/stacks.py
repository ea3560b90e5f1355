"""Stacks: what the threads of another process are doing, asked of the process itself.

A process that uses a bus has `faulthandler` write the stacks of its threads when `SIGNAL` comes. It writes from C, in
the middle of whatever Python does, so it also answers when no Python code gets to run.

    asks                                              answers
    pidfd of the process
    /proc/PID/status: is SIGNAL caught?
    /proc/PID/fd: its memory file, locked
    SIGNAL through the pidfd            ----------->  faulthandler: append the stacks to the memory file
    read it, empty it, unlock it

The file has no name anywhere, so nothing is left behind, however a process ends. SIGNAL ends a process that does not
catch it, so it is sent through a pidfd, which is never another process, and only after a look whether it is caught. (A
process that becomes another program by `exec` between that look and the signal would end. The time between is some ten
microseconds.)

The signal is a real-time one, of which no use is common: 7 below the last. It is taken only if nobody has it.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import select
import signal
import time

from eventbus_mp.locking import NonReentrantLock

__all__ = ["SIGNAL", "StackAnswers", "stack_of"]

SIGNAL = signal.SIGRTMAX - 7
PATIENCE_NS = 100_000_000
LOOK_AGAIN_MS = 2
STACK_BYTES_MAX = 1 << 16
_NAME = "eventbus_mp-stacks"


class StackAnswers:
    """Says that this process answers; several may be open at once, and the last one that closes ends it."""

    _lock = NonReentrantLock()
    _open_count = 0
    _fd = -1

    def __init__(self) -> None:
        self._is_open = True
        with self._lock.held():
            kind = StackAnswers
            kind._open_count += 1
            if kind._fd < 0 and _is_free(SIGNAL):
                kind._fd = os.memfd_create(_name_of(os.getpid()), os.MFD_CLOEXEC)
                # The process that reads it empties it: what comes then goes to the beginning again.
                fcntl.fcntl(kind._fd, fcntl.F_SETFL, fcntl.fcntl(kind._fd, fcntl.F_GETFL) | os.O_APPEND)
                faulthandler.register(SIGNAL, file=kind._fd, all_threads=True)

    def close(self) -> None:
        """Answer no more. Repeated, it does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        with self._lock.held():
            kind = StackAnswers
            kind._open_count -= 1
            if not kind._open_count and kind._fd >= 0:
                faulthandler.unregister(SIGNAL)
                os.close(kind._fd)
                kind._fd = -1

    def abandon(self) -> None:
        """In a forked child: the answers are the parent's. The child opens its own when it uses a bus."""
        StackAnswers._lock = NonReentrantLock()
        self.close()


def stack_of(pid: int) -> str | None:
    """The stacks of a process's threads; blocks for at most 100 ms. None: it does not answer, or not in time."""
    deadline_ns = time.monotonic_ns() + PATIENCE_NS
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        fd = _file_of(pid)
        if fd is None:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            if not _catches(pid):
                return None
            signal.pidfd_send_signal(pidfd, SIGNAL)
            return _read(fd, pidfd, deadline_ns)
        finally:
            os.close(fd)
    except OSError:
        return None  # It has ended, or another process asks it at this moment.
    finally:
        os.close(pidfd)


def _read(fd: int, pidfd: int, deadline_ns: int) -> str | None:
    """What is written until nothing more comes for a moment."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    size = 0
    while time.monotonic_ns() < deadline_ns and not poll.poll(LOOK_AGAIN_MS):
        before, size = size, os.fstat(fd).st_size
        if size and size == before:
            text = os.pread(fd, STACK_BYTES_MAX, 0).decode(errors="replace")
            os.ftruncate(fd, 0)
            return text.strip() or None
    return None


def _file_of(pid: int) -> int | None:
    """The memory file to which a process writes its stacks, opened."""
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{_name_of(pid)}"):
                return os.open(f"{folder}/{name}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # It was closed meanwhile.
    return None


def _name_of(pid: int) -> str:
    return f"{_NAME}-{pid}."


def _catches(pid: int) -> bool:
    return bool(_masks(pid).get("SigCgt", 0) >> SIGNAL - 1 & 1)


def _is_free(number: int) -> bool:
    """Whether nobody in this process has the signal, in Python or elsewhere."""
    masks = _masks(os.getpid())
    taken = (masks.get("SigCgt", 0) | masks.get("SigIgn", 0) | masks.get("SigBlk", 0)) >> number - 1 & 1
    return not taken and signal.getsignal(number) is signal.SIG_DFL


def _masks(pid: int) -> dict[str, int]:
    """The masks of signals in /proc/PID/status, by their names there."""
    with open(f"/proc/{pid}/status") as status:
        return {line[:6]: int(line[7:], 16) for line in status if line.startswith("Sig") and line[6] == ":"}
