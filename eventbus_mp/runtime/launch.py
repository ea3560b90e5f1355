"""Starting the manager, detached, by the first process that connects: `eventbus_mp.manager` in a plain Python.

It runs in a session of its own and inherits only the standard streams and one pipe, on which it says that it is ready.
So no `__main__` is imported, and nothing that its starter has open (as the sockets of a prefork server) stays open in
it.
"""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import time

import msgpack

from eventbus_mp.config import BusConfig
from eventbus_mp.errors import ManagerLost
from eventbus_mp.runtime.handshake import READY
from eventbus_mp.runtime.interpreter import manager_command, manager_environment, manager_packages
from eventbus_mp.runtime.rundir import RunDir

__all__ = ["start_manager"]


def start_manager(run_dir: RunDir, config: BusConfig, timeout_s: float) -> None:
    """Start a manager for `run_dir` and wait until it listens. Call it with the start lock held.

    Raises:
        ManagerLost: It did not come up within `timeout_s` (the text has the tail of its log), or there is no Python to
            run it with.
    """
    deadline = time.monotonic() + timeout_s
    command = manager_command(run_dir.bus)
    ready, says_ready = _pipe()
    try:
        with open(run_dir.log, "ab") as log:
            log_bytes = log.tell()
            process = subprocess.Popen(
                [*command, str(run_dir.root), run_dir.bus, str(says_ready)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[says_ready],
                start_new_session=True,
                cwd="/",
                env=manager_environment(),
            )
        os.close(says_ready)
        says_ready = -1
        # The process that we started forks the manager and ends. So the manager is not our child, and we need not
        # collect it when it ends.
        try:
            process.communicate(manager_packages() + msgpack.packb(config.bus_wide()), timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _await_ready(ready, run_dir, log_bytes, deadline)
    finally:
        os.close(ready)
        if says_ready >= 0:
            os.close(says_ready)


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are over 2, even in a process that has closed its standard streams."""
    ends = os.pipe()
    kept: list[int] = []
    try:
        for end in ends:
            kept.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
    except OSError:
        for end in kept:
            os.close(end)
        raise
    finally:
        for end in ends:
            os.close(end)
    return kept[0], kept[1]


def _await_ready(ready: int, run_dir: RunDir, log_bytes: int, deadline: float) -> None:
    poll = select.poll()  # select() refuses descriptors over 1023.
    poll.register(ready, select.POLLIN)
    readable = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    said = os.read(ready, len(READY)) if readable else None
    if said == READY:
        return
    # A manager that is only late finds our end of the pipe closed and leaves.
    what = "did not come up in time" if said is None else "ended at once"
    raise ManagerLost(
        f"the manager of bus {run_dir.bus!r} {what}; the end of its log ({run_dir.log}):\n"
        f"{run_dir.log_tail(log_bytes) or '(none)'}"
    )
