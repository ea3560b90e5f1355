"""The reception: processes that connect and have not got their pipes yet. Nobody waits for a silent one."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from eventbus_mp.errors import ProtocolError
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.handshake import Welcome
from eventbus_mp.runtime.pipe import PipeEnds, make_pipe

__all__ = ["PendingLink", "Acceptor"]

log = logging.getLogger("eventbus_mp.manager")

SILENCE_NS_MAX = 5_000_000_000
HANDSHAKES_MAX = 1024
HELLO_BYTES_MAX = 8192
DESCRIPTORS_SPARE = 8
"""What the manager keeps free for itself: a standby, a segment, a process to be told that it is refused."""
NO_ROOM = "the manager has no file descriptors left; raise its limit (ulimit -n)"


@dataclass(slots=True)
class _Handshake:
    connection: socket.socket
    pid: int
    deadline_ns: int
    received: bytes = b""


@dataclass(slots=True)
class PendingLink:
    """A process whose pipes are made; it gets its ends with the greeting."""

    connection: socket.socket
    welcome: Welcome
    theirs: list[int]

    def greet(self) -> None:
        """Send the pipe ends. Is it gone already, then the end of its pipe tells."""
        try:
            handshake.welcome(self.connection, self.welcome, self.theirs)
        except OSError as error:
            log.info("could not greet a process: %s", error)
        _close_all(self.theirs)
        self.theirs.clear()
        self.connection.close()

    def close(self) -> None:
        """Forget it; it connects again."""
        _close_all(self.theirs)
        self.theirs.clear()
        self.connection.close()


class Acceptor:
    """Accepts connections, checks who they are and what they say, and passes the good ones on.

    Args:
        listener: The bus's socket.
        watch, unwatch: The loop's, to be told when a connection has something to read.
        open_link: Called with the connection and its pid when its HELLO is complete.
    """

    def __init__(
        self,
        listener: socket.socket,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        open_link: Callable[[socket.socket, int], None],
    ) -> None:
        self._listener = listener
        self._watch = watch
        self._unwatch = unwatch
        self._open_link = open_link
        self._handshakes: dict[int, _Handshake] = {}

    def accept(self) -> None:
        """Take the next connection from the socket."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of file descriptors: let the others live; this one stays in the backlog until there is room.
            log.warning("cannot accept a process: %s", error)
            self._drop_oldest()
            return
        connection.setblocking(False)
        if not _has_room():
            self._refuse(connection, NO_ROOM)
            return
        pid, uid = handshake.peer(connection)
        if uid not in (os.getuid(), 0):
            log.warning("process %d of user %d was refused: this bus belongs to user %d", pid, uid, os.getuid())
            self._refuse(connection, f"this bus belongs to user {os.getuid()}, you are user {uid}")
            return
        if len(self._handshakes) >= HANDSHAKES_MAX:
            self._drop_oldest()
        newcomer = _Handshake(connection, pid, time.monotonic_ns() + SILENCE_NS_MAX)
        self._handshakes[connection.fileno()] = newcomer
        self._watch(connection.fileno(), lambda: self._listen(newcomer))

    def _listen(self, newcomer: _Handshake) -> None:
        try:
            data = newcomer.connection.recv(HELLO_BYTES_MAX)
            newcomer.received += data
            if not handshake.read_hello(newcomer.received):
                if not data:
                    self._dismiss(newcomer)
                return
        except BlockingIOError:
            return
        except ConnectionError:
            self._dismiss(newcomer)
            return
        except ProtocolError as error:
            log.warning("process %d was refused: %s", newcomer.pid, error)
            self._forget(newcomer)
            self._refuse(newcomer.connection, str(error))
            return
        self._forget(newcomer)
        self._open_link(newcomer.connection, newcomer.pid)

    def make_pipes(
        self, connection: socket.socket, pid: int, welcome: Welcome
    ) -> tuple[PendingLink, int, PipeEnds] | None:
        """Make its pipes: (it, to be greeted; its pidfd; our ends), or None when there are no descriptors left."""
        fds: list[int] = []
        try:
            fds += make_pipe()
            fds += make_pipe()
            pidfd = _open_pidfd(pid)
            if not _has_room():
                fds += [pidfd] if pidfd >= 0 else []
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            log.warning("cannot take process %d: %s", pid, error)
            _close_all(fds)
            self._refuse(connection, NO_ROOM)
            return None
        to_process, from_manager, from_process, to_manager = fds
        pending = PendingLink(connection, welcome, [to_process, to_manager])
        return pending, pidfd, PipeEnds(from_process, from_manager)

    def next_due_ns(self) -> int | None:
        """When `drop_silent` has something to do."""
        # Guests come in the order of their deadlines.
        return next((newcomer.deadline_ns for newcomer in self._handshakes.values()), None)

    def drop_silent(self) -> None:
        """Turn away those who connected and said nothing."""
        now_ns = time.monotonic_ns()
        for newcomer in list(self._handshakes.values()):
            if newcomer.deadline_ns > now_ns:
                return
            log.warning("process %d connected and said nothing", newcomer.pid)
            self._dismiss(newcomer)

    def close(self, *, unwatched: bool = False) -> None:
        """Send everybody away; `unwatched`: the loop does not watch them any more."""
        for newcomer in list(self._handshakes.values()):
            if unwatched:
                newcomer.connection.close()
            else:
                self._dismiss(newcomer)
        self._handshakes.clear()

    def _drop_oldest(self) -> None:
        for newcomer in self._handshakes.values():
            self._dismiss(newcomer)
            return

    def _forget(self, newcomer: _Handshake) -> None:
        del self._handshakes[newcomer.connection.fileno()]
        self._unwatch(newcomer.connection.fileno())

    def _dismiss(self, newcomer: _Handshake) -> None:
        self._forget(newcomer)
        newcomer.connection.close()

    @staticmethod
    def _refuse(connection: socket.socket, reason: str) -> None:
        with connection:
            try:
                handshake.refuse(connection, reason)
            except OSError as error:
                log.warning("could not tell a process why it was refused: %s", error)


def _open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when the process ends; -1 when it lives in another pid namespace."""
    try:
        return os.pidfd_open(pid)
    except (ProcessLookupError, ValueError):
        return -1  # The end of its pipe still tells.
    except OSError as error:
        if pid <= 0:
            return -1
        raise error


def _has_room() -> bool:
    """Whether the manager has the descriptors that it may need itself."""
    probes: list[int] = []
    try:
        while len(probes) < DESCRIPTORS_SPARE:
            probes.append(os.eventfd(0))
    except OSError:
        return False
    finally:
        _close_all(probes)
    return True


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
