"""The side that has the payloads: one thread, which waits for all its connections at once and blocks for none."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from typing import cast

from eventbus_mp import EventBusError, UsageError
from eventbus_mp.addons.bridge.bulk.peer import Ended, Lookup, Peer, Terms
from eventbus_mp.addons.bridge.bulk.wire import NONCE_BYTES, host_and_port
from eventbus_mp.addons.service import Service

__all__ = ["BulkServer"]

log = logging.getLogger("eventbus_mp.bridge")

BACKLOG = 128
PAUSE_S = 1.0
"""Between two attempts when the process has no descriptors left."""


class BulkServer(Service):
    """Gives payloads to other bridges that know the token, on a thread of its own.

    `start` binds the address, `stop` cuts off all connections. A connection that takes or says nothing for too long is
    closed. When there are `connections_max`, one that is idle makes room for a new one; if none is, the new one is
    closed.

    Args:
        address: HOST:PORT to listen on; port 0: any that is free.
        token: What the others have to know, 16 bytes or more.
        lookup: (life, sequence) -> the payload, or None if there is none. Called on the thread; it must not block. The
            view is read, perhaps after the caller has released it, and never written.
        connections_max: How many there may be at a time.
        timeout_s: How long a connection may take to show that it knows the token; and to take a payload, a second for
            each MiB beside.

    Raises:
        UsageError: The address is not one, or the token is too short. `start` raises EventBusError if the address
            cannot be bound.
    """

    _kind = "server of large payloads"
    _thread_name = "eventbus_mp bulk"
    _log = log

    def __init__(
        self, address: str, token: bytes, lookup: Lookup, *, connections_max: int = 64, timeout_s: float = 10.0
    ) -> None:
        super().__init__(f"the server of large payloads on {address}")
        if len(token) < NONCE_BYTES:
            raise UsageError(f"the token has {len(token)} bytes; give {NONCE_BYTES} or more")
        self._wanted = host_and_port(address)
        self._terms = Terms(token, lookup, timeout_s)
        self._connections_max = connections_max
        self._wake_fd = -1
        self._is_stopping = False
        self._listener: socket.socket | None = None
        self._pauses_until_s = 0.0
        """Until then no connection is accepted; 0: any is."""
        self._peers: dict[socket.socket, Peer] = {}

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            UsageError: It was not started.
        """
        if self._listener is None:
            raise UsageError(f"{self._what} is not running: start it first")
        return cast(int, self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._peers)

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting until it is done."""
        self._is_stopping = True
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    # --- the life of a service ---

    def _begin_anew(self) -> None:
        self._is_stopping = False
        self._listener = _listening(*self._wanted)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def _let_go(self) -> None:
        wake_fd, self._wake_fd = self._wake_fd, -1
        if wake_fd >= 0:
            os.close(wake_fd)

    def _work(self) -> None:
        listener = self._listener
        assert listener is not None
        with selectors.DefaultSelector() as selector, listener:
            self._pauses_until_s = 0.0
            selector.register(listener, selectors.EVENT_READ)
            selector.register(self._wake_fd, selectors.EVENT_READ)
            self._state = "serving"
            self._is_settled.set()
            try:
                while not self._is_stopping:
                    self._turn(selector, listener)
            finally:
                for peer in self._peers.values():
                    peer.close()
                self._peers.clear()
                self._listener = None

    # --- on the thread ---

    def _turn(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        for key, _ in selector.select(PAUSE_S):
            if key.fileobj is listener:
                self._accept(selector, listener)
            elif isinstance(key.data, Peer) and key.data.sock in self._peers:
                self._serve(selector, key.data)
        now_s = time.monotonic()
        if 0 < self._pauses_until_s < now_s:
            self._pauses_until_s = 0.0
            selector.register(listener, selectors.EVENT_READ)
        for peer in [peer for peer in self._peers.values() if peer.deadline_s < now_s]:
            if not peer.is_idle:
                peer.told("it takes too long")
            self._drop(selector, peer)

    def _accept(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            log.warning("no connection for large payloads can be accepted: %s", error)
            self._pauses_until_s = time.monotonic() + PAUSE_S
            selector.unregister(listener)  # It stays readable, and would be asked again at once.
            return
        if len(self._peers) >= self._connections_max and not self._make_room(selector):
            log.warning("%s:%s is turned away: all %d connections are busy", *address[:2], self._connections_max)
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = self._peers[sock] = Peer(sock, f"{address[0]}:{address[1]}", self._terms)
        selector.register(sock, peer.waits_for, peer)

    def _serve(self, selector: selectors.BaseSelector, peer: Peer) -> None:
        before = peer.waits_for
        try:
            if before == selectors.EVENT_READ:
                peer.read()
            peer.write()
        except BlockingIOError:
            pass  # It was not ready after all.
        except (Ended, OSError) as end:
            if str(end) and not isinstance(end, ConnectionError):  # The other side may leave as it likes.
                peer.told(str(end))
            self._drop(selector, peer)
            return
        if peer.waits_for != before:
            selector.modify(peer.sock, peer.waits_for, peer)

    def _make_room(self, selector: selectors.BaseSelector) -> bool:
        """Close the connection that has been idle for longest: whether there is one."""
        idle = [peer for peer in self._peers.values() if peer.is_idle]
        if idle:
            self._drop(selector, min(idle, key=lambda peer: peer.deadline_s))
        return bool(idle)

    def _drop(self, selector: selectors.BaseSelector, peer: Peer) -> None:
        selector.unregister(peer.sock)
        del self._peers[peer.sock]
        peer.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as cause:
        raise EventBusError(f"{host} cannot be listened on: {cause.strerror}") from cause
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as cause:
        listener.close()
        raise EventBusError(f"port {port} of {host} cannot be listened on: {cause.strerror}") from cause
    return listener
