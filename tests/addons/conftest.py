"""Fixtures for addons with a database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.addons.postgresql import Server, programs, running_server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server for all tests. It runs when a test gets it; one that stops it has to start it again."""
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed: pip install 'eventbus-mp[postgresql]'")
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL: there is no initdb in PATH or in /usr/lib/postgresql/*/bin")
    with running_server(bin) as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """The URL of an empty database, which is gone after the test."""
    name = f"test_{uuid.uuid4().hex}"
    postgresql_server.sql(f"CREATE DATABASE {name}")
    yield postgresql_server.url(name)
    postgresql_server.sql(f"DROP DATABASE {name} WITH (FORCE)")
