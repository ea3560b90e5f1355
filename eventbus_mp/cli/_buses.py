"""What `doctor` looks at in the buses of this user: those that run, and what dead ones left."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from eventbus_mp.cli._finding import Finding, fine, problem, warning
from eventbus_mp.cli._text import shown_bytes, shown_count
from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import EventBusError, NoSuchBus
from eventbus_mp.runtime.rundir import dead_segments
from eventbus_mp.snapshot import Snapshot

__all__ = ["bus_findings"]

FULL_SHARE = 0.75
"""Of the memory. An eighth is kept for handlers that publish, and what else is left may be too small for a span."""
DESCRIPTORS_SHARE = 0.9
TIMEOUT_S = 5.0


def bus_findings(root: Path) -> Iterator[Finding]:
    """Of the buses below `root`, and of the memory of all dead ones."""
    yield _leftovers(root)
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = [finding for name in names for finding in _bus(root, name)]
    yield from found or [fine("buses", f"none is running below {root}")]


def _leftovers(root: Path) -> Finding:
    """Memory that nobody uses."""
    paths = dead_segments()
    if not paths:
        return fine("leftovers", "dead buses left nothing in /dev/shm")
    nbytes = 0
    for path in paths:
        try:
            nbytes += os.stat(path).st_blocks * 512
        except FileNotFoundError:
            continue  # It was a link into a directory of files; or somebody cleans at this moment.
    text = f"dead buses left {shown_count(len(paths), 'file')} of {shown_bytes(nbytes)} in /dev/shm"
    return warning("leftovers", text, "eventbus-mp clean")


def _bus(root: Path, name: str) -> Iterator[Finding]:
    """Of one bus; nothing if it does not run, and is not a bus at all."""
    subject = f"bus {name}"
    try:
        with EventBus.attach(
            name, run_dir=str(root), connect_timeout_s=TIMEOUT_S, request_timeout_s=TIMEOUT_S, show_stacks=False
        ) as bus:
            snapshot = bus.snapshot()
    except NoSuchBus:
        if (root / name / "socket").is_symlink():
            yield warning(subject, "its manager is gone, and its files are still there", "eventbus-mp clean")
        return
    except EventBusError as error:
        yield problem(
            subject,
            f"this package and its manager do not understand each other: {error}",
            "use the version of eventbus_mp that its processes use, or end them all and start them with this one",
        )
        return
    yield from _running(subject, snapshot)


def _running(subject: str, now: Snapshot) -> Iterator[Finding]:
    manager, memory = now.manager, now.memory
    complaints = list(_of_manager(subject, now))
    if memory.bytes_used >= FULL_SHARE * memory.bytes_max:
        complaints.append(
            warning(
                subject,
                f"{shown_bytes(memory.bytes_used)} of its {shown_bytes(memory.bytes_max)} of memory are in use",
                f"eventbus-mp stuck {now.bus}: who does not settle events? Or raise memory_bytes_max",
            )
        )
    text = f"manager {manager.pid} runs, with {shown_count(now.events.unsettled, 'unsettled event')}"
    yield from complaints or [fine(subject, text)]


def _of_manager(subject: str, now: Snapshot) -> Iterator[Finding]:
    manager = now.manager
    if manager.standby_pid is None:
        yield warning(
            subject, "it has no standby: the end of its manager would be its own", "look into its manager.log"
        )
    try:
        runs = os.readlink(f"/proc/{manager.pid}/exe")
        used = len(os.listdir(f"/proc/{manager.pid}/fd"))
    except OSError:
        return  # It is in another container, where /proc is about others.
    limit = resource.prlimit(manager.pid, resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < used / DESCRIPTORS_SHARE:
        yield problem(
            subject,
            f"its manager has {used} of {limit} descriptors open; soon no process can join",
            "start the bus with a higher limit: ulimit -n 65536, or LimitNOFILE= of the service",
        )
    mine = os.path.realpath(sys.executable)
    if runs != mine:
        yield warning(
            subject,
            f"its manager runs {runs}, and this command {mine}",
            "run eventbus-mp from the environment of the programs that use the bus",
        )
