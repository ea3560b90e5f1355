"""The side that wants payloads: it fetches each one straight into the memory where it is to be."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence

from eventbus_mp import UsageError
from eventbus_mp.addons.bridge.bulk.wire import (
    ACCEPTED,
    ANSWER,
    GREETING,
    REQUEST,
    BulkGone,
    BulkUnavailable,
    host_and_port,
    nonce_of,
    proof,
    seconds_for,
)

__all__ = ["BulkClient"]

DOWN_S = 5.0
"""After a connection could not be made, so long nobody tries it again: those who ask have parts to fall back on."""


class _Connection:
    """A connection that has been accepted."""

    def __init__(self, address: str, token: bytes, timeout_s: float) -> None:
        self.token = token
        self._address = address
        self._timeout_s = timeout_s
        deadline_s = time.monotonic() + timeout_s
        try:
            self._sock = socket.create_connection(host_and_port(address), timeout_s)
        except OSError as cause:
            raise BulkUnavailable(f"{address} cannot be reached: {cause}") from cause
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._introduce(deadline_s)
        except BaseException:
            self._sock.close()
            raise

    def fetch(self, life: bytes, sequence: int, into: memoryview) -> None:
        """Fill `into` with the payload.

        Raises:
            BulkGone: There is none. The connection can go on.
            BulkUnavailable: It is not so long, or did not come.
            ConnectionError: Nothing came at all: the connection was closed since the last time.
        """
        deadline_s = time.monotonic() + seconds_for(len(into), self._timeout_s)
        try:
            self._sock.settimeout(self._timeout_s)
            self._sock.sendall(REQUEST.pack(life, sequence))
        except TimeoutError as cause:
            raise BulkUnavailable(f"{self._address} takes no requests") from cause
        except OSError as cause:
            raise ConnectionError(str(cause)) from cause
        head = bytearray(ANSWER.size)
        # The payload comes right behind its length: to wait for both is one wake-up less.
        got = self._receive((memoryview(head), into), ANSWER.size, deadline_s)
        (length,) = ANSWER.unpack(head)
        if not length:
            raise BulkGone(f"{self._address} does not have event {sequence}")
        if length != len(into):
            raise BulkUnavailable(f"{self._address} has {length} bytes for event {sequence}, not {len(into)}")
        got -= ANSWER.size
        try:
            with into[got:] as rest:
                self._receive((rest,), len(rest), deadline_s)
        except ConnectionError as cause:
            raise BulkUnavailable(f"{self._address} broke off in the middle of event {sequence}: {cause}") from cause

    def close(self) -> None:
        """Close it."""
        self._sock.close()

    def _introduce(self, deadline_s: float) -> None:
        try:
            nonce = nonce_of(self._take(GREETING.size, deadline_s))
            if nonce is None:
                raise BulkUnavailable(f"{self._address} is not a bridge of this version")
            self._sock.sendall(proof(self.token, nonce))
            if self._take(len(ACCEPTED), deadline_s) != ACCEPTED:
                raise BulkUnavailable(f"{self._address} does not accept the token")
        except OSError as cause:
            raise BulkUnavailable(f"{self._address} takes no more connections, or is not a bridge: {cause}") from cause

    def _take(self, count: int, deadline_s: float) -> bytearray:
        data = bytearray(count)
        self._receive((memoryview(data),), count, deadline_s)
        return data

    def _receive(self, pieces: Sequence[memoryview], least: int, deadline_s: float) -> int:
        """Fill pieces of memory one after the other, at least so many bytes of them: how many it is."""
        done = 0
        while done < least:
            left_s = deadline_s - time.monotonic()
            try:
                if left_s <= 0:
                    raise TimeoutError
                self._sock.settimeout(left_s)
                count = self._sock.recvmsg_into(_behind(pieces, done))[0]
            except TimeoutError as cause:
                raise BulkUnavailable(f"{self._address} is too slow: {done} of {least} bytes came in time") from cause
            if not count:
                raise ConnectionError("it was closed")
            done += count
        return done


def _behind(pieces: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of them when so many bytes are filled."""
    left = []
    for piece in pieces:
        if done < len(piece):
            left.append(piece[done:])
        done = max(0, done - len(piece))
    return left


class BulkClient:
    """Fetches payloads from other bridges. Connections are kept for the next time. Any thread may use it.

    Args:
        timeout_s: How long a connection may take to come about; and a payload, a second for each MiB beside.
        idle_max: How many connections to one address are kept when nobody uses them.
    """

    def __init__(self, *, timeout_s: float = 10.0, idle_max: int = 8) -> None:
        self._timeout_s = timeout_s
        self._idle_max = idle_max
        # Only single steps of the interpreter change these, so they need no lock.
        self._idle: dict[str, deque[_Connection]] = {}
        self._down: dict[str, tuple[float, bytes, str]] = {}
        """Address -> until when it is left alone, with which token, and why."""

    def fetch(
        self, address: str, token: bytes, life: bytes, sequence: int, length: int, into: memoryview | None = None
    ) -> memoryview:
        """The payload of an event, its number left out, in memory of its own or in `into`. Blocks.

        Args:
            address: HOST:PORT of the bridge that has it.
            token: The one of that bridge.
            life: Of its bus.
            sequence: Of the event.
            length: Of the payload, as the parcel has it.
            into: Where to put it: writable, and so long. If an error is raised, its content is arbitrary.

        Raises:
            BulkGone: That bridge does not have the event.
            BulkUnavailable: It cannot be fetched: nobody is there, the token is wrong, the payload is not so long, or
                it did not come in time.
            UsageError: `into` is of another length, or the address is not one.
        """
        if into is None:
            into = memoryview(bytearray(length))
        if into.nbytes != length:
            raise UsageError(f"fetch: into= is {into.nbytes} bytes long, and the payload {length}")
        with into.cast("B") as view:
            self._fetch(address, token, life, sequence, view)
        return into

    def close(self) -> None:
        """Close the connections that nobody uses. One that is in use is closed by its thread, if that fails."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _fetch(self, address: str, token: bytes, life: bytes, sequence: int, into: memoryview) -> None:
        while (kept := self._kept(address, token)) is not None:
            try:
                self._fetch_over(kept, address, life, sequence, into)
                return
            except ConnectionError:
                continue  # The other side has closed it, as it may.
        connection = self._connect(address, token)
        try:
            self._fetch_over(connection, address, life, sequence, into)
        except ConnectionError as cause:
            raise BulkUnavailable(f"{address} has ended the connection: {cause}") from cause

    def _fetch_over(self, connection: _Connection, address: str, life: bytes, sequence: int, into: memoryview) -> None:
        try:
            connection.fetch(life, sequence, into)
        except BulkGone:
            self._keep(address, connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(address, connection)

    def _connect(self, address: str, token: bytes) -> _Connection:
        until_s, refused, why = self._down.get(address, (0.0, b"", ""))
        if time.monotonic() < until_s and refused == token:
            raise BulkUnavailable(why)
        try:
            connection = _Connection(address, token, self._timeout_s)
        except BulkUnavailable as error:
            self._down[address] = time.monotonic() + DOWN_S, token, str(error)
            raise
        self._down.pop(address, None)
        return connection

    def _kept(self, address: str, token: bytes) -> _Connection | None:
        """One from the last time; those of another token are of a bridge that has gone."""
        connections = self._idle.get(address, ())
        while connections:
            try:
                connection = connections.pop()
            except IndexError:  # Another thread was faster.
                return None
            if connection.token == token:
                return connection
            connection.close()
        return None

    def _keep(self, address: str, connection: _Connection) -> None:
        connections = self._idle.setdefault(address, deque())
        if len(connections) < self._idle_max:
            connections.append(connection)
        else:
            connection.close()
