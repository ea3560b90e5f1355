"""Fixtures of the journal's tests. Each store that there is runs the same suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventbus_mp.addons.journal.opening import open_store
from eventbus_mp.addons.journal.store import Store

STORES = ("sqlite",)

OpenStore = Callable[..., Store]


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that does not exist yet."""
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
