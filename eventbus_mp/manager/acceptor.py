"""Accepting processes: from the connection to the greeting that gives them their pipes. A silent one delays nobody."""

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
"""What the manager keeps free for itself: for a standby, a segment, a process that has to be refused."""
NO_ROOM = "the manager has no file descriptors left; raise its limit (ulimit -n)"


@dataclass(slots=True)
class _Handshake:
    """A process that has connected and has not said a whole HELLO yet."""

    connection: socket.socket
    pid: int
    deadline_ns: int
    received: bytes = b""


@dataclass(slots=True)
class PendingLink:
    """A process that has a link and does not know it yet. It gets its ends of the pipes with the greeting."""

    connection: socket.socket
    welcome: Welcome
    theirs: list[int]

    def greet(self) -> None:
        """Send the pipe ends. If the process is already gone, its link ends with the end of its pipe."""
        try:
            handshake.welcome(self.connection, self.welcome, self.theirs)
        except OSError as error:
            log.info("could not greet a process: %s", error)
        self.close()

    def close(self) -> None:
        """Let go of it. A process that was not greeted connects again."""
        _close_all(self.theirs)
        self.theirs.clear()
        self.connection.close()


class Acceptor:
    """Accepts connections, checks who they are and what they say, and gives the good ones a link.

    The greeting waits for `greet_pending`: a process may learn of its link only when a standby has its pipes. Greeted
    before, it would lose the bus with a manager that dies in between.

    Args:
        listener: The bus's socket.
        watch, unwatch: Those of the poller, for the connections.
        open_link: Called when a HELLO is complete, with the pid, a pidfd of the process (-1: there is none) and our
            ends of its pipes, which it takes over. Returns what the greeting says.
    """

    def __init__(
        self,
        listener: socket.socket,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        open_link: Callable[[int, int, PipeEnds], Welcome],
    ) -> None:
        self.listener = listener
        self._watch = watch
        self._unwatch = unwatch
        self._open_link = open_link
        self._handshakes: dict[int, _Handshake] = {}
        """By the descriptor of the connection, in the order of their deadlines."""
        self._pending: list[PendingLink] = []

    def accept(self) -> None:
        """Take the next connection from the socket."""
        try:
            connection, _ = self.listener.accept()
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
        self._admit(newcomer.connection, newcomer.pid)

    def _admit(self, connection: socket.socket, pid: int) -> None:
        """Make the pipes of a process and give it a link; refuse it if there are no descriptors left."""
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
            return
        to_process, from_manager, from_process, to_manager = fds
        welcome = self._open_link(pid, pidfd, PipeEnds(from_process, from_manager))
        self._pending.append(PendingLink(connection, welcome, [to_process, to_manager]))

    def greet_pending(self) -> None:
        """Give every process that waits for it the ends of its pipes."""
        pending, self._pending = self._pending, []
        for link in pending:
            link.greet()

    def next_due_ns(self) -> int | None:
        """When `drop_silent` has something to do."""
        if not self._handshakes:
            return None
        return next((newcomer.deadline_ns for newcomer in self._handshakes.values()), None)

    def drop_silent(self) -> None:
        """Turn away processes that connected and said nothing."""
        now_ns = time.monotonic_ns()
        for newcomer in list(self._handshakes.values()):
            if newcomer.deadline_ns > now_ns:
                return
            log.warning("process %d connected and said nothing", newcomer.pid)
            self._dismiss(newcomer)

    def close(self, *, unwatched: bool = False) -> None:
        """Let go of every process that is not greeted yet; the listener stays open.

        Args:
            unwatched: The poller is not ours to change (in a standby), or is closed.
        """
        for newcomer in list(self._handshakes.values()):
            if unwatched:
                newcomer.connection.close()
            else:
                self._dismiss(newcomer)
        self._handshakes.clear()
        for link in self._pending:
            link.close()
        self._pending.clear()

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
        return -1  # The end of its pipe is still seen.
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
