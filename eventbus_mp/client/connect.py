"""Connecting to a bus: reach its manager, or start one when there is none."""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.greenlet_transport import GreenletTransport
from eventbus_mp.client.transport import PipeTransport, Transport
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import EventBusError, ManagerLost, NoSuchBus
from eventbus_mp.memory.shm import SHM_DIR, load_opener
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.adopted import collect_when_adopted
from eventbus_mp.runtime.greenlets import check_patches, uses_greenlets
from eventbus_mp.runtime.rundir import RunDir

__all__ = ["Link", "connection_over", "open_connection", "open_link"]

load_opener()


class Link(NamedTuple):
    """A link that nobody serves yet."""

    welcome: handshake.Welcome
    """What the manager said."""
    incoming: int
    """The pipe from it."""
    outgoing: int
    """The pipe to it; it blocks."""

    def close(self) -> None:
        """Close both pipes; the manager would keep a link that nobody serves."""
        os.close(self.incoming)
        os.close(self.outgoing)


def open_connection(bus: str, config: BusConfig, *, starts: bool = True) -> Connection:
    """Connect to the bus, with pipes that threads wait for; as `open_link`."""
    link = open_link(bus, config, starts=starts)
    try:
        transport = (GreenletTransport if uses_greenlets() else PipeTransport)(link.incoming, link.outgoing)
    except OSError as cause:
        link.close()
        raise _refused(bus, cause) from cause
    return connection_over(link, bus, config, transport)


def connection_over(link: Link, bus: str, config: BusConfig, transport: Transport) -> Connection:
    """The connection of a new link whose pipes are `transport`'s."""
    return Connection(bus, config, link.welcome, transport, RunDir(config.run_dir, bus).log_tail)


def _refused(bus: str, cause: OSError) -> EventBusError:
    return EventBusError(f"bus {bus!r} cannot be connected to, or started: {cause}")


def open_link(bus: str, config: BusConfig, *, starts: bool = True) -> Link:
    """A link to the bus's manager, which is started if there is none. Any thread may call it.

    It blocks for at most `connect_timeout_s`.

    Args:
        bus: Its name.
        config: This process's settings.
        starts: Whether to start a manager.

    Raises:
        NoSuchBus: There is none, and none is to be started.
        ManagerLost: No manager could be reached or started in time, or it has another /dev/shm.
        EventBusError: It belongs to another user, or refused this process; or the system refuses something.
        UsageError: gevent has patched this process by halves, or eventlet has.
    """
    check_patches()
    try:
        link = _connect(bus, config, RunDir(config.run_dir, bus), starts)
    except OSError as cause:  # No descriptor is left, or no process; or the run directory's name is too long.
        raise _refused(bus, cause) from cause
    collect_when_adopted(link.welcome.manager_pid)
    return link


def _connect(bus: str, config: BusConfig, run_dir: RunDir, starts: bool) -> Link:
    """A new link to the bus's manager. Any number of processes may race for it."""
    deadline = time.monotonic() + config.connect_timeout_s
    while True:
        try:
            link = _greet(bus, run_dir, deadline)
        except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
            if run_dir.is_elsewhere():
                raise _elsewhere(bus) from None
            # A manager that died while it greeted us has a successor, whom the same socket reaches.
            if not starts and not isinstance(error, ConnectionResetError):
                raise NoSuchBus(
                    f"no bus {bus!r} is running below {run_dir.root}, and attaching to it starts none; is run_dir that "
                    "of its processes?"
                ) from None
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise ManagerLost(f"no manager of bus {bus!r} answered within {config.connect_timeout_s:g} s") from None
        else:
            _check_shared_memory(bus, link)
            return link
        if starts:
            _start(bus, config, run_dir, remaining_s)


def _reach(run_dir: RunDir, timeout_s: float) -> socket.socket:
    """A connection to the manager: by its address in the run directory, or by its claim if that address is gone."""
    try:
        return handshake.connect(run_dir.socket, timeout_s)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        address = run_dir.living_socket()
        if address is None:
            raise
        return handshake.connect(address, timeout_s)


def _greet(bus: str, run_dir: RunDir, deadline: float) -> Link:
    try:
        with _reach(run_dir, max(0.01, deadline - time.monotonic())) as connection:
            try:
                connection.sendall(handshake.hello())
            except BrokenPipeError:
                pass  # It was refused unheard; the reason waits to be read.
            return Link(*handshake.receive_welcome(connection))
    except PermissionError as cause:
        raise EventBusError(
            f"the bus at {run_dir.path} cannot be reached: {cause.strerror}; it belongs to another user, "
            "and BusConfig.run_dir names where yours are"
        ) from cause
    except TimeoutError as cause:
        raise ManagerLost(f"the manager of bus {bus!r} does not answer ({run_dir.socket})") from cause


def _start(bus: str, config: BusConfig, run_dir: RunDir, timeout_s: float) -> None:
    """Start a manager, unless somebody else does at this moment: then wait until that is done."""
    from eventbus_mp.runtime.launch import start_manager  # Here, because most processes find a manager.

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
        _reach(run_dir, 1.0).close()
    except OSError:
        return False
    return True


def _check_shared_memory(bus: str, link: Link) -> None:
    if os.stat(SHM_DIR).st_dev != link.welcome.shm_device:
        link.close()
        raise _elsewhere(bus)


def _elsewhere(bus: str) -> ManagerLost:
    return ManagerLost(
        f"the manager of bus {bus!r} has another /dev/shm than this process; "
        "containers that share a bus must share that as well (docker run --ipc=container:...)"
    )
