"""The handshake: how a process gets its pair of pipes.

    process -> manager   HELLO: [magic, version, pid]
    manager -> process   WELCOME: [magic, version, *Welcome], with the ends of two pipes as ancillary data,
                         or REFUSAL: [magic, version, text]

Both are msgpack behind a 4-byte length, over a unix socket that is closed afterwards. The kernel says who connects
(SO_PEERCRED), and another user is refused. The bus then uses pipes, because they cost half as much as sockets. They are
passed over a socket because a process gets them this way whether or not it was forked from the manager.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from eventbus_mp.errors import EventBusError, ProtocolError
from eventbus_mp.protocol.version import VERSION

__all__ = [
    "READY",
    "Welcome",
    "connect",
    "hello",
    "listen",
    "peer",
    "read_hello",
    "receive_welcome",
    "refuse",
    "welcome",
]

READY = b"ready"
"""What a manager tells the process that starts it when it accepts connections."""
MAGIC = "eventbus_mp"
MESSAGE_BYTES_MAX = 4096
BACKLOG = 512
_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("iII")


class Welcome(NamedTuple):
    """What the greeting says about the process's link and the bus."""

    link: int
    segment_prefix: str
    span_bytes: int
    memory_bytes_max: int
    shm_device: int
    manager_pid: int

    @property
    def life(self) -> str:
        """What distinguishes this bus from those of its name before it, and after."""
        # The segments of each new bus have a name of their own, and a takeover keeps them.
        return self.segment_prefix.rstrip("-").rpartition("-")[2]


def listen(path: Path) -> socket.socket:
    """The manager's socket, which does not block."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)  # It may lie in a directory of everybody's: nobody else is to connect.
    try:
        with _short_address(path) as address:
            listener.bind(address)
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    return listener


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to the manager's socket.

    Raises:
        FileNotFoundError, ConnectionRefusedError: No manager is there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with _short_address(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


class _short_address:
    """A path that fits into a unix address (107 bytes). If the real one does not, it goes through an open directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) < 107:
            return str(self._path)
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *exc_info: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process that connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def hello() -> bytes:
    """The HELLO of this process."""
    return _pack([MAGIC, VERSION, os.getpid()])


def read_hello(data: bytes) -> bool:
    """Whether `data` is a whole HELLO. False: it is the beginning of one.

    Raises:
        ProtocolError: It is something else, or of another version.
    """
    if len(data) < _LENGTH.size:
        return False
    (length,) = _LENGTH.unpack_from(data)
    if length > MESSAGE_BYTES_MAX:
        raise ProtocolError("it does not speak the bus's protocol")
    if len(data) < _LENGTH.size + length:
        return False
    _check(_unpack(data[_LENGTH.size :]))
    return True


def welcome(connection: socket.socket, greeting: Welcome, fds: list[int]) -> None:
    """Send WELCOME and the pipe ends. The caller closes its copies of them."""
    socket.send_fds(connection, [_pack([MAGIC, VERSION, *greeting])], fds)


def refuse(connection: socket.socket, reason: str) -> None:
    """Send REFUSAL."""
    connection.send(_pack([MAGIC, VERSION, reason]))


def receive_welcome(connection: socket.socket) -> tuple[Welcome, int, int]:
    """(welcome, fd to read, fd to write).

    Raises:
        ConnectionError: The manager went away; try again from the start.
        EventBusError: It refused; the text says why.
    """
    data, fds, flags, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, 2)
    try:
        if not data:
            raise ConnectionResetError("the manager closed the connection")
        values = _check(_unpack(data[_LENGTH.size :]))
        if len(values) == 1:
            raise EventBusError(f"the manager refused this process: {values[0]}")
        if len(fds) != 2 or flags & socket.MSG_CTRUNC:
            raise EventBusError("no file descriptors left for the two pipes; raise the limit (ulimit -n)")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    for fd in fds:
        os.set_inheritable(fd, False)
    return Welcome(*values), fds[0], fds[1]


def _pack(values: list[Any]) -> bytes:
    body: bytes = msgpack.packb(values)
    return _LENGTH.pack(len(body)) + body


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as cause:
        raise ProtocolError(f"a handshake that is not msgpack: {cause}") from cause


def _check(values: Any) -> list[Any]:
    if not isinstance(values, list) or len(values) < 3 or values[0] != MAGIC:
        raise ProtocolError("it does not speak the bus's protocol")
    if values[1] != VERSION:
        raise ProtocolError(f"it speaks version {values[1]}, this side {VERSION}; use one version of eventbus_mp")
    return values[2:]
