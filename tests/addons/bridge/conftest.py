"""Fixtures of the bridge's tests: NATS servers, and mailboxes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp.addons.bridge.bulk import BulkClient, BulkServer
from tests.addons.bridge.bulk import MIB, Payloads, serving
from tests.addons.bridge.nats_servers import DEBIAN, PYPI, NatsCluster, NatsServer


def program_of(version: str) -> Path:
    """The program of this version, or the test is skipped with a word."""
    program = {"2.9": DEBIAN, "newest": PYPI}[version]
    if not program.exists():
        pytest.skip(f"there is no {program}")
    return program


@pytest.fixture(params=["2.9", "newest"])
def any_program(request: pytest.FixtureRequest) -> Path:
    """The oldest server that has to do, and the newest."""
    return program_of(request.param)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Starts servers with what is given to `NatsServer`; all are killed at the end."""
    started: list[NatsServer] = []

    def start(program: Path | None = None, **how: Any) -> NatsServer:
        server = NatsServer(tmp_path / f"nats{len(started)}", program or program_of("newest"), **how)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def server(start_server: Callable[..., NatsServer]) -> NatsServer:
    """The newest server."""
    return start_server()


@pytest.fixture
def any_server(start_server: Callable[..., NatsServer], any_program: Path) -> NatsServer:
    """A server of each version."""
    return start_server(any_program)


@pytest.fixture
def cluster(tmp_path: Path, any_program: Path) -> Iterator[NatsCluster]:
    """Three servers of each version."""
    servers = NatsCluster(tmp_path / "cluster", any_program)
    try:
        yield servers.start()
    finally:
        servers.kill()


@pytest.fixture
def payloads() -> Payloads:
    return Payloads({1: MIB, 2: 320 << 10, 3: 64, 4: 24 * MIB})


@pytest.fixture
def bulk_client() -> Iterator[BulkClient]:
    client = BulkClient()
    yield client
    client.close()


@pytest.fixture
def bulk_server(payloads: Payloads) -> Iterator[BulkServer]:
    with serving(payloads.lookup) as server:
        yield server
