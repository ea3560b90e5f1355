"""Connecting to a bus: reach its manager, or start one when there is none."""

from __future__ import annotations

import os
import time

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.transport import PipeTransport
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import EventBusError, ManagerLost
from eventbus_mp.memory.shm import SHM_DIR
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.launch import start_manager
from eventbus_mp.runtime.rundir import RunDir

__all__ = ["open_connection"]

Link = tuple[handshake.Welcome, int, int]
"""What the manager said, the pipe from it, and the one to it."""


def open_connection(bus: str, config: BusConfig) -> Connection:
    """Connect to the bus, and start its manager if there is none; blocks for at most `connect_timeout_s`.

    Raises:
        ManagerLost: No manager could be reached or started in time, or it has another /dev/shm.
        EventBusError: It belongs to another user, or refused this process.
    """
    run_dir = RunDir(config.run_dir, bus)
    welcome, incoming, outgoing = _connect(bus, config, run_dir)
    return Connection(bus, config, welcome, PipeTransport(incoming, outgoing), run_dir.log_tail)


def _connect(bus: str, config: BusConfig, run_dir: RunDir) -> Link:
    """A new link to the bus's manager. Any number of processes may race for it."""
    deadline = time.monotonic() + config.connect_timeout_s
    while True:
        try:
            link = _greet(bus, run_dir, deadline)
        except (FileNotFoundError, NotADirectoryError, ConnectionError):
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise ManagerLost(f"no manager of bus {bus!r} answered within {config.connect_timeout_s:g} s") from None
        else:
            _check_shared_memory(bus, link)
            return link
        _start(bus, config, run_dir, remaining_s)


def _greet(bus: str, run_dir: RunDir, deadline: float) -> Link:
    try:
        with handshake.connect(run_dir.socket, max(0.01, deadline - time.monotonic())) as connection:
            try:
                connection.sendall(handshake.hello())
            except BrokenPipeError:
                pass  # It was refused unheard; the reason waits to be read.
            return handshake.receive_welcome(connection)
    except PermissionError as cause:
        raise EventBusError(
            f"the bus at {run_dir.path} cannot be reached: {cause.strerror}; it belongs to another user, "
            "and BusConfig.run_dir names where yours are"
        ) from cause
    except TimeoutError as cause:
        raise ManagerLost(f"the manager of bus {bus!r} does not answer ({run_dir.socket})") from cause


def _start(bus: str, config: BusConfig, run_dir: RunDir, timeout_s: float) -> None:
    """Start a manager, unless somebody else does at this moment: then wait until that is done."""
    try:
        run_dir.create()
        with run_dir.start_lock(timeout_s):
            if not _is_reachable(run_dir):
                run_dir.create()
                start_manager(run_dir, config, timeout_s)
    except TimeoutError as cause:
        raise ManagerLost(f"another process has been starting bus {bus!r} for {timeout_s:.0f} s") from cause
    except FileNotFoundError:
        return  # A manager that left took the directory with it: begin again.


def _is_reachable(run_dir: RunDir) -> bool:
    try:
        handshake.connect(run_dir.socket, 1.0).close()
    except OSError:
        return False
    return True


def _check_shared_memory(bus: str, link: Link) -> None:
    welcome, incoming, outgoing = link
    if os.stat(SHM_DIR).st_dev != welcome.shm_device:
        os.close(incoming)
        os.close(outgoing)
        raise ManagerLost(
            f"the manager of bus {bus!r} has another /dev/shm than this process; "
            "containers that share a bus must share it, too (docker run --ipc=container:...)"
        )
