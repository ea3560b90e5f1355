"""The session of a PostgreSQL store: its lock, its end at any moment, and the other sessions of its server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.journal import Selection
from eventbus_mp.addons.journal.store import StoreLocked, StoreUnavailable
from tests.addons.journal.postgresql_sessions import CuttingProxy, await_lock, terminate
from tests.addons.journal.rows import rows
from tests.addons.journal.test_store import RUN
from tests.addons.postgresql import Server

ALL = Selection()
Opener = Callable[..., Any]


def test_a_session_that_was_ended_is_replaced(open_postgresql: Opener, postgresql_server: Server) -> None:
    store = open_postgresql()
    store.append(rows(10))
    terminate(postgresql_server, store)
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        store.append(rows(10, begin=10))
    assert store.append(rows(15, begin=5)) == (10, 5, ())
    terminate(postgresql_server, store)
    with pytest.raises(StoreUnavailable):
        store.count(ALL)
    assert store.count(ALL) == 20
    assert store.append(rows(1, begin=20)) == (1, 0, ())  # Reading has connected again, and writing takes the lock.


def test_who_has_lost_the_session_has_lost_the_lock(open_postgresql: Opener, postgresql_server: Server) -> None:
    first, second = open_postgresql(), open_postgresql(locked=False)
    first.append(rows(3))
    terminate(postgresql_server, first)
    assert second.take_lock()
    second.append(rows(3, begin=3))
    with pytest.raises(StoreUnavailable):
        first.append(rows(3, begin=6))
    for _ in range(2):
        with pytest.raises((StoreLocked, UsageError), match="lock"):
            first.append(rows(3, begin=6))
    assert not first.take_lock()
    assert second.count(ALL) == 6
    second.close()
    assert first.take_lock()
    assert first.append(rows(4, begin=5)) == (3, 1, ())


def test_a_writer_whose_session_ends_amid_its_transaction_stores_nothing(
    open_postgresql: Opener, postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = open_postgresql(), open_postgresql(locked=False)
    finish = first._finish

    def lose_the_lock(*arguments: Any) -> Any:
        counts = finish(*arguments)
        terminate(postgresql_server, first)
        assert second.take_lock()
        assert second.append(rows(2)) == (2, 0, ())
        return counts  # And COMMIT comes.

    monkeypatch.setattr(first, "_finish", lose_the_lock)
    with pytest.raises(StoreUnavailable):
        first.append(rows(10))
    monkeypatch.undo()
    assert second.count(ALL) == 2
    with pytest.raises(StoreLocked):
        first.append(rows(10))


def test_a_standby_outlives_a_restart_of_the_server(open_postgresql: Opener, postgresql_server: Server) -> None:
    first, second = open_postgresql(), open_postgresql(locked=False)
    postgresql_server.stop()
    try:
        with pytest.raises(StoreUnavailable):
            second.take_lock()
        with pytest.raises(StoreUnavailable, match=r"No such file|Connection refused"):
            second.take_lock()
    finally:
        postgresql_server.start()
    assert second.take_lock()
    with pytest.raises(StoreUnavailable):
        first.append(rows(1))
    with pytest.raises(StoreLocked):
        first.append(rows(1))


@pytest.fixture
def proxy(postgresql_server: Server, tmp_path: Path) -> Iterator[CuttingProxy]:
    cutting = CuttingProxy(postgresql_server.socket, tmp_path)
    yield cutting
    cutting.close()


@pytest.mark.parametrize("cuts", ["before", "after"])
def test_whether_a_commit_that_was_cut_off_happened_is_found_out(
    proxy: CuttingProxy, open_postgresql: Opener, postgresql_url: str, tmp_path: Path, cuts: str
) -> None:
    store = open_postgresql(f"{postgresql_url.partition('?')[0]}?host={tmp_path}")
    number = store.begin_run(RUN)
    store.append(rows(5), run=number)
    second = open_postgresql(locked=False)
    proxy.cuts = cuts
    with pytest.raises(StoreUnavailable):
        store.append(rows(10, begin=5), run=number)
    await_lock(second)
    happened = cuts == "after"
    assert store.append(rows(10, begin=5), run=number) == ((0, 10, ()) if happened else (10, 0, ()))
    assert [one.row.id for one in store.page(ALL, 100)] == [str(number) for number in range(15)]
    assert store.runs()[0].stored == 15


def test_what_was_opened_before_a_fork_is_not_for_the_child(open_postgresql: Opener, fork: Callable[..., Any]) -> None:
    store, second = open_postgresql(), open_postgresql(locked=False)
    store.append(rows(1))

    def use(say: Any) -> None:
        for call in (lambda: store.append(rows(1)), lambda: store.count(ALL), store.take_lock):
            with pytest.raises(UsageError, match="before a fork"):
                call()
        store.close()
        say.send("done")
        say.recv()

    child = fork(use)
    assert child.hear() == "done"
    assert store.append(rows(2)).stored == 1
    # The child lives, and has no copy of the socket: the session ends with this one, as if the parent was killed.
    os.dup2(os.open(os.devnull, os.O_RDWR), store._connection.fileno())
    await_lock(second)
    assert second.take_lock()
    child.tell()
    assert child.wait() == 0
