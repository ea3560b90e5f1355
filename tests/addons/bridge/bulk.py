"""A server of large payloads, its client, and what stands in for either."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from eventbus_mp.addons.bridge.bulk import BulkServer
from eventbus_mp.addons.bridge.bulk.wire import (
    ACCEPTED,
    GREETING,
    PROOF_BYTES,
    REQUEST,
    greeting,
    nonce_of,
    proof,
)

TOKEN, LIFE = b"a token of 24 characters", b"life-of-"
MIB = 1 << 20
SHORT_S = 0.3


def a_payload(seed: int, length: int) -> bytes:
    """Random bytes, but for the number, which is left out on the way."""
    block = bytearray(random.Random(seed).randbytes(length))
    block[8:16] = bytes(8)
    return bytes(block)


class Payloads:
    """What an origin has: `lookup` for a server."""

    def __init__(self, lengths: dict[int, int] | None = None) -> None:
        self.held = {number: a_payload(number, length) for number, length in (lengths or {}).items()}
        self.asked: list[int] = []

    def lookup(self, life: bytes, sequence: int) -> memoryview | None:
        self.asked.append(sequence)
        payload = self.held.get(sequence) if life == LIFE else None
        return None if payload is None else memoryview(payload)


@contextlib.contextmanager
def serving(lookup: Callable[[bytes, int], memoryview | None], port: int = 0, **settings: Any) -> Iterator[BulkServer]:
    with BulkServer(f"127.0.0.1:{port}", TOKEN, lookup, **settings) as server:
        yield server


def address_of(server: BulkServer) -> str:
    return f"127.0.0.1:{server.port}"


def introduced(port: int, token: bytes = TOKEN) -> socket.socket:
    """A connection of our own, which the server has accepted."""
    peer = socket.create_connection(("127.0.0.1", port), 60)
    nonce = nonce_of(taken(peer, GREETING.size))
    assert nonce is not None
    peer.sendall(proof(token, nonce))
    assert taken(peer, len(ACCEPTED)) == ACCEPTED
    return peer


def taken(peer: socket.socket, count: int) -> bytes:
    """Exactly so many bytes, unless it ends before."""
    data = bytearray()
    while len(data) < count and (piece := peer.recv(count - len(data))):
        data += piece
    return bytes(data)


@contextlib.contextmanager
def a_server_that(answers: Callable[[socket.socket], object], times: int = 1) -> Iterator[str]:
    """The address of one that accepts anybody, and then does this with the first request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(times):
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(greeting(bytes(16)))
                    taken(peer, PROOF_BYTES)
                    peer.sendall(ACCEPTED)
                    taken(peer, REQUEST.size)
                    answers(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(60)
        assert not thread.is_alive()
