"""A server program that a peer needs: started for one run, on a unix socket or the loopback interface, and ended."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["not_found", "running"]

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
LOOK_INTERVAL_S = 0.01
PR_SET_PDEATHSIG = 1


def not_found(program: str) -> str | None:
    """Why it cannot be started; None when it can."""
    return None if _path(program) else f"program not found: {program}"


@contextmanager
def running(command: Sequence[str], log: Path, is_up: Callable[[int], bool]) -> Iterator[int]:
    """The pid of a server that is up.

    Args:
        log: Where its output goes.
        is_up: Given the pid, whether clients can connect by now.

    Raises:
        RuntimeError: It ended at once, or was not up in time; the end of its log is in the text.
    """
    path = _path(command[0])
    assert path is not None
    with log.open("wb") as output:
        process = subprocess.Popen(
            (path, *command[1:]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  one prctl, nothing that a lock could hang
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_up(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not come up: {log.read_text(errors='replace')[-400:]}")
            time.sleep(LOOK_INTERVAL_S)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _path(program: str) -> str | None:
    # Debian keeps servers where a user's PATH does not look.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
