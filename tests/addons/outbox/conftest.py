"""Fixtures of the outbox's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus
from eventbus_mp.addons.outbox import Relay
from tests.addons.outbox.databases import DATABASES, Database


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty outbox in each database."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'shop.db'}" if is_sqlite else request.getfixturevalue("postgresql_url")
    made = Database(request.param, url)
    yield made
    made.close()


@pytest.fixture
def relay(database: Database, bus: EventBus) -> Iterator[Callable[..., Relay]]:
    """Starts relays of this database to the bus of this test; all are stopped at the end."""
    started: list[Relay] = []

    def start(**how: Any) -> Relay:
        started.append(Relay(how.pop("to", bus), database.url, **how))
        return started[-1].start()

    yield start
    for one in started:
        one.stop()
