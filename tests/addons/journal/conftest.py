"""Fixtures of the journal's tests. Each store that there is runs the same suite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from eventbus_mp.addons.journal.opening import open_store
from eventbus_mp.addons.journal.store import Store
from tests.addons.journal.away import Said

STORES = ("sqlite", "postgresql")

OpenStore = Callable[..., Store]


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that does not exist yet."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'journal' / 'test.db'}"


@pytest.fixture
def open_one(store_url: str) -> Iterator[OpenStore]:
    """Opens the store, as its writer or as a reader; all are closed at the end."""
    opened: list[Store] = []

    def make(*, writes: bool = False) -> Store:
        opened.append(open_store(store_url, writes=writes))
        if writes:
            assert opened[-1].take_lock()
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_one: OpenStore) -> Store:
    """A store with its lock."""
    return open_one(writes=True)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[str], None]]:
    """Waits until the journal of this process has logged a line with this text."""
    lines: SimpleQueue[str] = SimpleQueue()
    handler = Said(lines.put)
    logger = logging.getLogger("eventbus_mp.journal")
    logger.addHandler(handler)

    def wait(text: str) -> None:
        line = ""
        while text not in line:
            line = lines.get(timeout=60)

    yield wait
    logger.removeHandler(handler)


@pytest.fixture
def open_postgresql(postgresql_url: str) -> Iterator[Callable[..., Any]]:
    """Opens stores of one database, by default with the lock; all are closed at the end."""
    stores: list[Store] = []

    def make(url: str = postgresql_url, *, writes: bool = True, locked: bool = True) -> Any:
        stores.append(open_store(url, writes=writes))
        if writes:
            assert stores[-1].take_lock() == locked
        return stores[-1]

    yield make
    for store in stores:
        store.close()
