"""The server of large payloads, and all that its peers may do to it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.bridge.bulk import BulkClient, BulkServer, BulkUnavailable
from eventbus_mp.addons.bridge.bulk.wire import (
    ANSWER,
    GREETING,
    REQUEST,
)
from tests.addons.bridge.bulk import (
    LIFE,
    MIB,
    SHORT_S,
    TOKEN,
    Payloads,
    a_payload,
    address_of,
    introduced,
    serving,
    taken,
)
from tests.helpers import until


def test_a_peer_that_takes_nothing_holds_up_nobody_and_is_cut_off(payloads: Payloads, bulk_client: BulkClient) -> None:
    with serving(payloads.lookup, timeout_s=SHORT_S) as server, introduced(server.port) as slow:
        slow.sendall(REQUEST.pack(LIFE, 4))
        slow.recv(1)
        assert bulk_client.fetch(address_of(server), TOKEN, LIFE, 1, MIB) == payloads.held[1]
        server._peers[next(iter(server._peers))].deadline_s = 0.0  # 24 MiB may take 24 s.
        until(lambda: server.connections == 1)
        assert bulk_client.fetch(address_of(server), TOKEN, LIFE, 1, MIB) == payloads.held[1]


def test_a_peer_that_never_says_the_token_is_cut_off(payloads: Payloads) -> None:
    with serving(payloads.lookup, timeout_s=SHORT_S) as server:
        with socket.create_connection(("127.0.0.1", server.port), 60) as silent:
            taken(silent, GREETING.size)
            assert silent.recv(1) == b""
        until(lambda: server.connections == 0)


def test_a_peer_that_was_killed_in_the_middle(
    bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient, fork: Callable[..., Any]
) -> None:
    port = bulk_server.port

    def take_a_little(to_parent: Any) -> None:
        peer = introduced(port)
        peer.sendall(REQUEST.pack(LIFE, 4))
        peer.recv(1)
        to_parent.send("in the middle")
        signal.pause()

    child = fork(take_a_little)
    assert child.hear() == "in the middle"
    child.kill()
    until(lambda: bulk_server.connections == 0)
    assert bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 1, MIB) == payloads.held[1]


def test_when_all_connections_are_busy_the_next_one_is_turned_away(payloads: Payloads, bulk_client: BulkClient) -> None:
    with (
        serving(payloads.lookup, connections_max=2) as server,
        introduced(server.port) as one,
        introduced(server.port) as two,
    ):
        for peer in (one, two):
            peer.sendall(REQUEST.pack(LIFE, 4))
            peer.recv(1)
        with pytest.raises(BulkUnavailable, match="takes no more connections"):
            bulk_client.fetch(address_of(server), TOKEN, LIFE, 3, 64)


def test_an_idle_connection_makes_room(payloads: Payloads, bulk_client: BulkClient) -> None:
    with (
        serving(payloads.lookup, connections_max=2) as server,
        introduced(server.port) as oldest,
        introduced(server.port) as newer,
    ):
        until(lambda: all(peer.is_idle for peer in server._peers.values()))
        assert bulk_client.fetch(address_of(server), TOKEN, LIFE, 3, 64) == payloads.held[3]
        assert oldest.recv(1) == b""
        newer.sendall(REQUEST.pack(LIFE, 3))
        assert taken(newer, ANSWER.size + 64)[ANSWER.size :] == payloads.held[3]


def test_requests_that_come_together_are_answered_in_turn(bulk_server: BulkServer, payloads: Payloads) -> None:
    with introduced(bulk_server.port) as peer:
        request, answer = REQUEST.pack(LIFE, 3), ANSWER.pack(64) + payloads.held[3]
        peer.sendall(request * 3 + REQUEST.pack(LIFE, 9) + request[:5])
        expected = answer * 3 + ANSWER.pack(0)
        assert taken(peer, len(expected)) == expected
        peer.sendall(request[5:])
        assert taken(peer, len(answer)) == answer


def test_random_bytes_end_a_connection_and_nothing_else(
    bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(100):
        with (
            socket.create_connection(("127.0.0.1", bulk_server.port), 60) as peer,
            contextlib.suppress(ConnectionError),
        ):
            peer.sendall(rng.randbytes(rng.randrange(200)))
    assert payloads.asked == []
    assert bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 1, MIB) == payloads.held[1]
    until(lambda: bulk_server.connections == 1)


def test_a_lookup_that_raises_is_logged_and_ends_the_connection(
    bulk_client: BulkClient, caplog: pytest.LogCaptureFixture
) -> None:
    def lookup(life: bytes, sequence: int) -> memoryview | None:
        if sequence == 13:
            raise RuntimeError("thirteen")
        return memoryview(bytes(64))

    with serving(lookup) as server:
        with pytest.raises(BulkUnavailable, match="has ended the connection"):
            bulk_client.fetch(address_of(server), TOKEN, LIFE, 13, 64)
        assert bulk_client.fetch(address_of(server), TOKEN, LIFE, 1, 64) == bytes(64)
    assert "event 13 could not be looked up" in caplog.text


def test_the_view_may_be_released_meanwhile_and_is_let_go_of(bulk_client: BulkClient) -> None:
    memory = bytearray(a_payload(5, MIB))
    given: list[memoryview] = []

    def lookup(life: bytes, sequence: int) -> memoryview | None:
        given.append(memoryview(memory))
        return given[-1]

    with serving(lookup) as server:
        with introduced(server.port) as slow:
            slow.sendall(REQUEST.pack(LIFE, 1))
            first = taken(slow, ANSWER.size + 10)
            given[0].release()
            rest = taken(slow, MIB - 10)
            assert first[ANSWER.size :] + rest == memory
        until(lambda: server.connections == 0)
        memory.append(0)  # A BufferError, if a view of it were left.


def test_stop_ends_what_is_under_way(payloads: Payloads) -> None:
    server = BulkServer("127.0.0.1:0", TOKEN, payloads.lookup).start()
    with introduced(server.port) as peer:
        peer.sendall(REQUEST.pack(LIFE, 4))
        peer.recv(1)
        server.stop()
        with contextlib.suppress(ConnectionError):
            while peer.recv(MIB):
                assert server.connections == 0
    with pytest.raises(UsageError, match="is not running"):
        _ = server.port
    server.start()
    assert server.port
    server.stop()


def test_a_process_without_descriptors_accepts_when_it_has_some_again(
    payloads: Payloads, bulk_client: BulkClient, fork: Callable[..., Any]
) -> None:
    def serve(to_parent: Any) -> None:
        with serving(payloads.lookup) as server:
            taken = [os.dup(0)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            to_parent.send(server.port)
            began_s = time.process_time()
            first_s = until(lambda: server._pauses_until_s)
            until(lambda: server._pauses_until_s > first_s)
            to_parent.send(time.process_time() - began_s)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            signal.pause()

    child = fork(serve)
    address = f"127.0.0.1:{child.hear()}"
    assert bulk_client.fetch(address, TOKEN, LIFE, 3, 64) == payloads.held[3]
    assert child.hear() < 0.5, "it waits, and does not spin"
