"""One connection, as the server has it: what was heard so far, and what is to be sent. It never blocks."""

from __future__ import annotations

import hmac
import logging
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from eventbus_mp.addons.bridge.bulk.wire import (
    ACCEPTED,
    ANSWER,
    HEAD_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    REFUSED,
    REQUEST,
    greeting,
    proof,
    seconds_for,
    without_number,
)

__all__ = ["Ended", "Lookup", "Peer", "Terms"]

log = logging.getLogger("eventbus_mp.bridge")

Lookup: TypeAlias = Callable[[bytes, int], "memoryview | None"]
TURN_BYTES = 4 << 20
"""After this many bytes for one connection, it is the next one's turn."""
IDLE_S = 60.0


class Ended(Exception):
    """The connection is over; the text says why, if it is worth a line."""


class Terms(NamedTuple):
    """What all connections of a server have in common: the arguments of `BulkServer`."""

    token: bytes
    lookup: Lookup
    timeout_s: float


class Peer:
    """One connection: what it has said so far, and what it is still to get."""

    def __init__(self, sock: socket.socket, address: str, terms: Terms) -> None:
        self.sock = sock
        self.deadline_s = time.monotonic() + terms.timeout_s
        self.is_accepted = False
        self._address = address
        self._terms = terms
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._heard = bytearray()
        self._outgoing = [memoryview(greeting(self._nonce))]
        self._ends_then = False

    @property
    def waits_for(self) -> int:
        """Which event of the selector it waits for: it asks again only when it has got everything."""
        return selectors.EVENT_WRITE if self._outgoing else selectors.EVENT_READ

    @property
    def is_idle(self) -> bool:
        """Whether it could be closed without anyone missing something."""
        return self.is_accepted and not self._outgoing and not self._heard

    def read(self) -> None:
        """Take what has arrived, and answer it if it is whole."""
        wanted = REQUEST.size if self.is_accepted else PROOF_BYTES
        data = self.sock.recv(wanted - len(self._heard))
        if not data:
            raise Ended()
        self._heard += data
        if len(self._heard) < wanted:
            return
        heard = bytes(self._heard)
        self._heard.clear()
        if self.is_accepted:
            self._answer(*REQUEST.unpack(heard))
        else:
            self.is_accepted = hmac.compare_digest(heard, proof(self._terms.token, self._nonce))
            self._ends_then = not self.is_accepted
            self._outgoing.append(memoryview(ACCEPTED if self.is_accepted else REFUSED))

    def write(self) -> None:
        """Send as much as there is room for, but no more than its turn."""
        sent = 0
        while self._outgoing and sent < TURN_BYTES:
            try:
                count = self.sock.sendmsg(self._outgoing)
            except BlockingIOError:
                return
            sent += count
            while self._outgoing and count >= len(self._outgoing[0]):
                first = self._outgoing.pop(0)
                count -= len(first)
                first.release()
            if count:
                with self._outgoing[0] as first:
                    self._outgoing[0] = first[count:]
        if not self._outgoing:
            if self._ends_then:
                raise Ended("it does not know the token")
            self.deadline_s = time.monotonic() + (IDLE_S if self.is_accepted else self._terms.timeout_s)

    def close(self) -> None:
        """Close it, and let go of the memory it was to get."""
        for piece in self._outgoing:
            piece.release()
        self._outgoing.clear()
        self.sock.close()

    def told(self, why: str) -> None:
        """Note in the log why it was cut off."""
        log.warning("a connection for large payloads from %s is closed: %s", self._address, why)

    def _answer(self, life: bytes, sequence: int) -> None:
        try:
            found = self._terms.lookup(life, sequence)
        except Exception as cause:
            log.exception("event %d could not be looked up for %s", sequence, self._address)
            raise Ended() from cause
        # A view of our own: the other one is released when the event is settled, which may be meanwhile.
        view = memoryview(found).toreadonly().cast("B") if found is not None else memoryview(b"")
        self._outgoing.append(memoryview(ANSWER.pack(len(view))))
        self.deadline_s = time.monotonic() + seconds_for(len(view), self._terms.timeout_s)
        if len(view):
            self._outgoing.append(memoryview(without_number(view[:HEAD_BYTES])))
            self._outgoing.append(view[HEAD_BYTES:])
            view.release()
