"""Large payloads over real sockets: what is fetched is what there is, and whatever goes wrong has an end."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventbus_mp import EventBusError, UsageError
from eventbus_mp.addons.bridge.bulk import BulkClient, BulkGone, BulkServer, BulkUnavailable
from eventbus_mp.addons.bridge.bulk.wire import (
    ANSWER,
    host_and_port,
)
from tests.addons.bridge.bulk import (
    LIFE,
    MIB,
    SHORT_S,
    TOKEN,
    Payloads,
    a_server_that,
    address_of,
    serving,
)
from tests.helpers import until

# --- what works ---


def test_a_payload_arrives_in_its_place(bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient) -> None:
    target = bytearray(MIB + 128)
    into = memoryview(target)[64:-64]
    found = bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 1, MIB, into)
    assert found is into
    assert found == payloads.held[1]
    assert target[:64] == target[-64:] == bytes(64)


def test_a_payload_in_memory_of_its_own(bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient) -> None:
    for sequence in (2, 3, 4):
        payload = payloads.held[sequence]
        assert bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, sequence, len(payload)) == payload


def test_its_number_on_the_other_bus_does_not_come_along(bulk_client: BulkClient) -> None:
    with serving(lambda life, sequence: memoryview(b"\xff" * 128)) as server:
        found = bulk_client.fetch(address_of(server), TOKEN, LIFE, 1, 128)
    assert found == b"\xff" * 8 + bytes(8) + b"\xff" * 112


def test_a_connection_is_kept_for_the_next_payload(bulk_server: BulkServer, bulk_client: BulkClient) -> None:
    for _ in range(5):
        bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 3, 64)
        assert bulk_server.connections == 1


def test_many_at_once(bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient) -> None:
    def fetch(number: int) -> bool:
        sequence = number % 3 + 1
        payload = payloads.held[sequence]
        return bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, sequence, len(payload)) == payload

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(fetch, range(300)))
    assert bulk_server.connections <= 16


def test_a_view_of_another_format(bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient) -> None:
    target = memoryview(bytearray(MIB)).cast("d")
    bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 1, MIB, target)
    assert target.cast("B") == payloads.held[1]


def test_a_server_that_came_back_on_its_port(payloads: Payloads, bulk_client: BulkClient) -> None:
    with serving(payloads.lookup) as first:
        port = first.port
        bulk_client.fetch(address_of(first), TOKEN, LIFE, 3, 64)
    with serving(payloads.lookup, port) as second:
        assert bulk_client.fetch(address_of(second), TOKEN, LIFE, 3, 64) == payloads.held[3]


def test_a_new_bridge_has_another_token(payloads: Payloads, bulk_client: BulkClient) -> None:
    with serving(payloads.lookup) as first:
        port = first.port
        bulk_client.fetch(address_of(first), TOKEN, LIFE, 3, 64)
    with BulkServer(f"127.0.0.1:{port}", b"another one of 24 bytes.", payloads.lookup) as second:
        address = address_of(second)
        with pytest.raises(BulkUnavailable, match="does not accept the token"):
            bulk_client.fetch(address, TOKEN, LIFE, 3, 64)
        assert bulk_client.fetch(address, b"another one of 24 bytes.", LIFE, 3, 64) == payloads.held[3]


# --- what does not ---


def test_an_event_that_is_settled_is_gone(bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient) -> None:
    for life, sequence in ((LIFE, 99), (b"another-", 1)):
        with pytest.raises(BulkGone, match=f"does not have event {sequence}"):
            bulk_client.fetch(address_of(bulk_server), TOKEN, life, sequence, MIB)
    assert bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 3, 64) == payloads.held[3]
    assert bulk_server.connections == 1, "the connection goes on"


def test_a_wrong_token_is_refused_and_nothing_is_looked_up(
    bulk_server: BulkServer, payloads: Payloads, bulk_client: BulkClient
) -> None:
    for _ in range(2):
        with pytest.raises(BulkUnavailable, match="does not accept the token"):
            bulk_client.fetch(address_of(bulk_server), b"a guess of 24 characters", LIFE, 1, MIB)
    assert payloads.asked == []
    until(lambda: bulk_server.connections == 0)


def test_a_short_token_is_refused() -> None:
    with pytest.raises(UsageError, match="the token has 5 bytes; give 16 or more"):
        BulkServer("127.0.0.1:0", b"short", Payloads().lookup)


def test_a_payload_of_another_length_is_not_taken(bulk_server: BulkServer, bulk_client: BulkClient) -> None:
    target = memoryview(bytearray(MIB))
    with pytest.raises(BulkUnavailable, match=f"has {MIB} bytes for event 1, not 64"):
        bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 1, 64, target[:64])
    assert target[64:] == bytes(MIB - 64)
    until(lambda: bulk_server.connections == 0)
    with pytest.raises(UsageError, match="into= is 1048576 bytes long, and the payload 64"):
        bulk_client.fetch(address_of(bulk_server), TOKEN, LIFE, 3, 64, target)


def test_a_length_that_no_memory_has_is_not_believed(bulk_client: BulkClient) -> None:
    with (
        a_server_that(lambda peer: peer.sendall(ANSWER.pack((1 << 64) - 1))) as address,
        pytest.raises(BulkUnavailable, match="has 18446744073709551615 bytes for event 1, not 64"),
    ):
        bulk_client.fetch(address, TOKEN, LIFE, 1, 64)


def test_a_payload_that_breaks_off(bulk_client: BulkClient) -> None:
    with (
        a_server_that(lambda peer: peer.sendall(ANSWER.pack(MIB) + bytes(1000))) as address,
        pytest.raises(BulkUnavailable, match="broke off in the middle of event 1"),
    ):
        bulk_client.fetch(address, TOKEN, LIFE, 1, MIB)


def test_a_connection_that_ends_before_the_answer(bulk_client: BulkClient) -> None:
    with (
        a_server_that(lambda peer: None) as address,
        pytest.raises(BulkUnavailable, match="has ended the connection"),
    ):
        bulk_client.fetch(address, TOKEN, LIFE, 1, MIB)


def test_a_payload_that_stops_coming() -> None:
    client, seen = BulkClient(timeout_s=SHORT_S), threading.Event()

    def stall(peer: socket.socket) -> None:
        peer.sendall(ANSWER.pack(64) + bytes(10))
        assert seen.wait(60)

    with a_server_that(stall) as address:
        with pytest.raises(BulkUnavailable, match="is too slow: 0 of 54 bytes came"):
            client.fetch(address, TOKEN, LIFE, 1, 64)
        seen.set()


def test_a_payload_that_drips_has_an_end() -> None:
    """Each byte in time is not enough."""
    client = BulkClient(timeout_s=SHORT_S)

    def drip(peer: socket.socket) -> None:
        peer.sendall(ANSWER.pack(MIB))
        with contextlib.suppress(ConnectionError):
            while not closed_soon(peer):
                peer.sendall(b".")

    with (
        a_server_that(drip) as address,
        pytest.raises(BulkUnavailable, match=r"is too slow: \d+ of 10\d+ bytes came in time"),
    ):
        client.fetch(address, TOKEN, LIFE, 1, MIB)


def closed_soon(peer: socket.socket) -> bool:
    """A hundredth of a second later: whether the other side has closed."""
    peer.settimeout(0.01)
    try:
        return not peer.recv(1)
    except TimeoutError:
        return False


def test_nobody_there_is_said_at_once_the_next_time(bulk_client: BulkClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    for _ in range(2):
        with pytest.raises(BulkUnavailable, match="cannot be reached"):
            bulk_client.fetch(address, TOKEN, LIFE, 1, MIB)


def test_something_else_listens_there(bulk_client: BulkClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with listener.accept()[0] as peer:
                peer.sendall(b"SSH-2.0-OpenSSH_9.2".ljust(80))

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(BulkUnavailable, match="is not a bridge of this version"):
            bulk_client.fetch(f"127.0.0.1:{listener.getsockname()[1]}", TOKEN, LIFE, 1, MIB)
        thread.join(60)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:65536", "::1:80", "host:-1", "[]:1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        host_and_port(address)


def test_addresses() -> None:
    assert host_and_port("h.example:80") == ("h.example", 80)
    assert host_and_port("[::1]:80") == ("::1", 80)


def test_an_address_that_is_taken(bulk_server: BulkServer, payloads: Payloads) -> None:
    with pytest.raises(EventBusError, match=f"port {bulk_server.port} of 127.0.0.1 cannot be listened on"):
        BulkServer(address_of(bulk_server), TOKEN, payloads.lookup).start()
    with pytest.raises(EventBusError, match=r"192\.0\.2\.1 cannot be listened on"):
        BulkServer("192.0.2.1:0", TOKEN, payloads.lookup).start()
