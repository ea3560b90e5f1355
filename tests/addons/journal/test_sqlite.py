"""What only a store in a SQLite file has: files, their modes, and what may happen to them."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.journal import Checkpoint, Selection, open_store
from eventbus_mp.addons.journal.sqlite.files import check_file_system, file_system_of
from eventbus_mp.addons.journal.sqlite.store import SqliteStore
from eventbus_mp.addons.journal.store import StoreLocked, StoreUnavailable, StoreUnusable
from tests.addons.journal.rows import keys, row, rows

ALL = Selection()
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "test.db"


def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, writes=True)
    assert store.take_lock()
    return store


def test_nobody_else_can_read_the_files_whatever_the_umask_is(path: Path) -> None:
    mask = os.umask(0)
    try:
        with opened(path) as store:
            store.append(rows(10))
            store.save_checkpoint(Checkpoint("one", "copy", 1))
            with open_store(store.url) as reader:
                assert reader.count(ALL) == 10
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(mask)
    names = ("test.db", "test.db-wal", "test.db-shm", "test.db.lock", "test.db.replays")
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_file_is_set_up_for_what_it_is(path: Path) -> None:
    with opened(path) as store:
        store.append(rows(1))
    db = sqlite3.connect(path)
    pragmas = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "auto_vacuum")}
    assert (pragmas, db.execute("PRAGMA application_id").fetchone()[0]) == (
        {"journal_mode": "wal", "auto_vacuum": 2},
        0x65624A31,
    )
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_file_that_is_deleted_underneath_is_made_again(path: Path) -> None:
    with opened(path) as store:
        store.append(rows(3))
        path.unlink()
        store.append(rows(2, begin=3))
        assert keys(store.page(ALL, 10)) == [("order", "3"), ("order", "4")]
        with open_store(store.url) as reader:
            assert reader.count(ALL) == 2


def test_the_log_of_a_file_that_is_gone_is_not_read_as_that_of_a_new_one(path: Path) -> None:
    store = opened(path)
    store.append(rows(3))
    kept = {file: file.read_bytes() for file in (path, Path(f"{path}-wal"))}
    store.close()
    for file, content in kept.items():
        file.write_bytes(content)  # As a writer that was killed leaves them.
    path.unlink()
    with opened(path) as new:
        assert new.count(ALL) == 0
        assert Path(f"{path}-wal.left").read_bytes() == kept[Path(f"{path}-wal")]


def test_a_file_that_goes_amid_a_transaction_has_nothing_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        finish = store._finish

        def lose_the_file(*arguments: Any) -> Any:
            path.unlink()
            return finish(*arguments)

        monkeypatch.setattr(store, "_finish", lose_the_file)
        with pytest.raises(StoreUnavailable, match="deleted or replaced underneath"):
            store.append(rows(3))
        monkeypatch.undo()
        assert store.append(rows(3)).stored == 3


def test_a_file_that_is_replaced_by_another_journal(path: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "other.db") as other:
        other.append(rows(5))
    with opened(path) as store:
        store.append(rows(3))
        os.replace(tmp_path / "other.db", path)
        assert store.append(rows(7)) == (2, 5, ())
        assert store.count(ALL) == 7


def test_a_reader_of_a_file_that_is_replaced(path: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "other.db") as other:
        other.append(rows(5))
    with opened(path) as store:
        store.append(rows(3))
    with SqliteStore(path) as reader:
        assert reader.count(ALL) == 3
        path.unlink()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"was deleted or replaced|there is no journal"):
                reader.count(ALL)
        os.replace(tmp_path / "other.db", path)
        assert reader.count(ALL) == 5
    with pytest.raises(UsageError, match="is closed"):
        reader.count(ALL)


def test_a_file_that_is_replaced_by_something_else_is_waited_for(path: Path, tmp_path: Path) -> None:
    with opened(path) as store:
        store.append(rows(3))
        path.rename(tmp_path / "aside")
        path.write_bytes(b"nothing that SQLite knows" * 100)
        with pytest.raises(StoreUnusable, match="damaged"):
            store.append(rows(1, begin=3))
        path.unlink()
        (tmp_path / "aside").rename(path)
        store.append(rows(1, begin=3))
        assert store.count(ALL) == 4


def test_a_lock_that_was_deleted_and_taken_by_another(path: Path) -> None:
    with opened(path) as store:
        store.append(rows(1))
        path.unlink()
        Path(f"{path}.lock").unlink()
        with opened(path) as other:
            other.append(rows(1))
            with pytest.raises(StoreLocked, match="another process writes"):
                store.append(rows(1))
            assert not store.take_lock()
        assert store.take_lock()
        assert store.append(rows(2)) == (1, 1, ())


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 500), StoreUnusable, "damaged"),
        (lambda path: path.mkdir(), StoreUnusable, "is not a file"),
        (lambda path: _sqlite_file(path, "CREATE TABLE t (a)"), StoreUnusable, "not a journal"),
        (lambda path: _journal_of(path, "PRAGMA user_version = 2"), StoreUnusable, "use a newer one"),
        (lambda path: _journal_of(path, "PRAGMA application_id = 7"), StoreUnusable, "not a journal"),
    ],
    ids=["no database", "a directory", "another database", "newer", "another application"],
)
def test_a_file_that_is_no_journal(path: Path, make: Callable[[Path], Any], error: type[Exception], said: str) -> None:
    path.parent.mkdir()
    make(path)
    with SqliteStore(path, writes=True) as store, pytest.raises(error, match=said) as raised:
        store.take_lock()
    assert "\n" not in str(raised.value)
    if path.is_file():
        with pytest.raises(error, match=said):
            SqliteStore(path)
        gc.collect()  # A connection that was left open is warned of.


def test_pages_that_were_written_over_are_seen(path: Path) -> None:
    with opened(path) as store:
        store.append([row(number, data=bytes(3000)) for number in range(300)])
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreUnusable, match="integrity_check"), SqliteStore(path) as store:
        store.page(ALL, 1_000)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_read_only_file(public: Path, fork: Callable[..., Any]) -> None:
    path = public / "test.db"
    with opened(path) as store:
        store.append(rows(3))
    if os.getuid() == 0:  # For whom no file is read-only.
        for file in (public, *public.iterdir()):
            os.chown(file, NOBODY, NOBODY)
    path.chmod(0o400)

    def write(say: Any) -> None:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        with SqliteStore(path, writes=True) as store, pytest.raises(StoreUnavailable, match="read-only"):
            store.take_lock()
        with SqliteStore(path) as reader:
            say.send(reader.count(ALL))

    child = fork(write)
    assert child.hear() == 3
    assert child.wait() == 0


def test_what_was_opened_before_a_fork_is_not_for_the_child(path: Path, fork: Callable[..., Any]) -> None:
    store = opened(path)
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
    with SqliteStore(path, writes=True) as second:
        assert not second.take_lock()
        # The child lives, and has no copy of the lock.
        store.close()
        assert second.take_lock()
    child.tell()
    assert child.wait() == 0


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /data rw - nfs4 server:/data rw
31 30 0:31 / /data/local rw shared:1 - xfs /dev/vdb rw
32 22 0:32 / /my\\040disk rw - cifs //server/share rw
33 22 0:33 / /twice rw - nfs server:/x rw
34 22 0:34 / /twice rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/home/journal.db", "ext4"),
        ("/data/journal.db", "nfs4"),
        ("/data/local/deep/journal.db", "xfs"),
        ("/database/journal.db", "ext4"),
        ("/my disk/journal.db", "cifs"),
        ("/twice/journal.db", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path(place: str, kind: str) -> None:
    assert file_system_of(Path(place), MOUNTS) == kind
    if kind in ("nfs4", "cifs"):
        with pytest.raises(StoreUnusable, match=f"network file system \\({kind}\\)"):
            check_file_system(Path(place), MOUNTS)
    else:
        check_file_system(Path(place), MOUNTS)


def _sqlite_file(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()


def _journal_of(path: Path, *statements: str) -> None:
    with opened(path):
        pass
    _sqlite_file(path, *statements)


def test_a_file_and_a_link_to_it_have_one_writer(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "journal.db")
    urls = [f"sqlite:///{tmp_path / name}" for name in ("journal.db", "link.db")]
    with open_store(urls[0], writes=True) as first:
        assert first.take_lock()
        with open_store(urls[1], writes=True) as second:
            assert not second.take_lock()
