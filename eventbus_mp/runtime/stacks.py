"""Stacks: what the threads of another process are doing, asked of the process itself.

A process that uses a bus has `faulthandler` write the stack of the thread that gets `SIGNAL`. It writes from C, in the
middle of whatever Python does, so it also answers when no Python code gets to run.

    asks                                              answers
    pidfd of the process
    /proc/PID/status: is SIGNAL caught?
    /proc/PID/fd: its memory file, locked
    for each thread: SIGNAL             ----------->  faulthandler: append its stack to the memory file
                     read the file, empty it
    unlock it

Each thread is asked by itself, because a thread that wrote the stacks of others would read them while they change:
`faulthandler` does not hold the GIL, and a busy process of several threads crashed by it. On CPython 3.10 it crashes
even so, because it counts references of the code that all threads run; there a process does not answer.

The file has no name anywhere, so nothing is left behind, however a process ends. SIGNAL ends a process that does not
catch it, so it is sent only after a look whether it is caught, and while a pidfd says that the process lives. (A
process that becomes another program by `exec` between that look and the signal would be ended. So would one that has
its number by then. The time between is some ten microseconds.)

The signal is a real-time one, of which no use is common: 7 below the last. It is taken only if nobody has it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import os
import select
import signal
import sys
import time

from eventbus_mp.locking import NonReentrantLock

__all__ = ["ANSWERS", "SIGNAL", "StackAnswers", "stack_of"]

SIGNAL = signal.SIGRTMAX - 7
ANSWERS = sys.version_info >= (3, 11)
"""Whether a process of this version can answer, and go on."""
PATIENCE_NS = 100_000_000
LOOK_AGAIN_MS = 1
LOOKS_MAX = 10
"""How often to look for the stack of a thread that has taken the signal: one that is not Python's writes nothing."""
STACK_BYTES_MAX = 1 << 16
_NAME = "eventbus_mp-stacks"
_libc = ctypes.CDLL(None)
"""It has `tgkill`, and Python has only what signals a thread of its own process."""


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
            if ANSWERS and kind._fd < 0 and _is_free(SIGNAL):
                kind._fd = os.memfd_create(_name_of(os.getpid()), os.MFD_CLOEXEC)
                # The process that reads it empties it: what comes then goes to the beginning again.
                fcntl.fcntl(kind._fd, fcntl.F_SETFL, fcntl.fcntl(kind._fd, fcntl.F_GETFL) | os.O_APPEND)
                faulthandler.register(SIGNAL, file=kind._fd, all_threads=False)

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
            return _ask(pid, pidfd, fd, deadline_ns) if _has_signal(f"/proc/{pid}/", "SigCgt") else None
        finally:
            os.close(fd)
    except OSError:
        return None  # It has ended, or another process asks it at this moment.
    finally:
        os.close(pidfd)


def _ask(pid: int, pidfd: int, fd: int, deadline_ns: int) -> str | None:
    """The stacks of the threads that answer, the main thread's first."""
    stacks = []
    for thread in sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda thread: (thread != pid, thread)):
        if time.monotonic_ns() >= deadline_ns or _has_ended(pidfd):
            break
        folder = f"/proc/{pid}/task/{thread}/"
        os.ftruncate(fd, 0)
        try:
            if _has_signal(folder, "SigBlk") or _libc.tgkill(pid, thread, SIGNAL):
                continue
            text, has_answered = _read(folder, fd, pidfd, deadline_ns)
        except FileNotFoundError:
            continue  # It has ended.
        if text:
            name = "Main thread" if thread == pid else f"Thread {thread}"
            stacks.append(text.replace("Stack", name, 1))
        if not has_answered:
            break  # What it writes later would be taken for the next one's.
    return "\n\n".join(stacks) or None


def _read(thread: str, fd: int, pidfd: int, deadline_ns: int) -> tuple[str, bool]:
    """(what a thread has written, whether it has taken the signal)."""
    size = looks = 0
    while time.monotonic_ns() < deadline_ns and not _has_ended(pidfd, LOOK_AGAIN_MS):
        before, size = size, os.fstat(fd).st_size
        if size and size == before:
            return os.pread(fd, STACK_BYTES_MAX, 0).decode(errors="replace").strip(), True
        if not size and not _has_signal(thread, "SigPnd"):
            looks += 1
            if looks == LOOKS_MAX or (looks > 1 and not _is_running(thread)):
                return "", True
    return "", False


def _has_ended(pidfd: int, patience_ms: int = 0) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience_ms))


def _is_running(thread: str) -> bool:
    with open(f"{thread}stat") as stat:
        return stat.read().rpartition(") ")[2][0] == "R"


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


def _has_signal(folder: str, mask: str) -> bool:
    return bool(_masks(folder).get(mask, 0) >> SIGNAL - 1 & 1)


def _is_free(number: int) -> bool:
    """Whether nobody in this process has the signal, in Python or elsewhere."""
    masks = _masks(f"/proc/{os.getpid()}/")
    taken = (masks.get("SigCgt", 0) | masks.get("SigIgn", 0) | masks.get("SigBlk", 0)) >> number - 1 & 1
    return not taken and signal.getsignal(number) is signal.SIG_DFL


def _masks(folder: str) -> dict[str, int]:
    """The masks of signals of a process or a thread, by their names in its `status`."""
    with open(f"{folder}status") as status:
        return {line[:6]: int(line[7:], 16) for line in status if line.startswith("Sig") and line[6] == ":"}
