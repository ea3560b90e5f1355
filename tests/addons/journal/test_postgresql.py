"""What only a store in a PostgreSQL database has: a schema, a server with limits, and a URL with a password."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.journal import Checkpoint, Rejected, Selection, open_store
from eventbus_mp.addons.journal.postgresql.address import address_of
from eventbus_mp.addons.journal.store import StoreUnavailable, StoreUnusable
from eventbus_mp.addons.journal.urls import shown_url
from tests.addons.journal.postgresql_sessions import pid_of, terminate
from tests.addons.journal.rows import keys, row, rows
from tests.addons.postgresql import Server

ALL = Selection()
Opener = Callable[..., Any]


def random_text(length: int) -> str:
    """A text that cannot be compressed."""
    return os.urandom(length // 2).hex()


# --- what it refuses, and what is refused to it ---


def test_what_postgresql_cannot_hold_is_rejected_and_comes_back_as_it_was(open_postgresql: Opener) -> None:
    store = open_postgresql()
    good = rows(1_000)
    bad = [
        row("nul\0", data="one"),
        row("1", "topic\0", data="two"),
        row("r", data="three", transaction_id=random_text(4_000)),
        row("s", data="four", source="\0"),
        row("t", data="five", transaction_id="\0"),
        row(5, "topic\0", data="six"),
    ]
    for index, one in enumerate(bad):
        good.insert(150 * index, one)
    stored = store.append(good)
    assert stored[:2] == (1_000, 0)
    assert [index for index, _ in stored.refused] == [150 * index for index in range(6)]
    assert store.count(ALL) == 1_000
    found = store.rejected(10)
    assert {(one.topic, one.id, bytes(one.data)) for one in found} == {
        (one.topic, one.id, bytes(one.data)) for one in bad
    }
    assert all("\0" not in one.reason for one in found)
    store.append([], [Rejected("topic\0", "1", "again", None, None, 2, 5)])
    assert len(store.rejected(10)) == 6
    for id in ("nul\0", "\ud800"):
        assert store.find("order", id) is None
        assert not store.delete("order", id)
    assert store.count(Selection(transaction_id="nul\0")) == 0


@pytest.fixture
def limit_files(fork: Callable[..., Any]) -> Callable[..., None]:
    """Sets how long the files may be that a process of the server writes, as the user that it belongs to."""

    def limit(pid: int, nbytes: int) -> None:
        owner = os.stat(f"/proc/{pid}")

        def work(say: Any) -> None:
            if os.getuid() != owner.st_uid:
                os.setgroups([])
                os.setgid(owner.st_gid)
                os.setuid(owner.st_uid)
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (nbytes, hard))

        assert fork(work).wait() == 0

    return limit


def test_a_server_that_is_full_stores_all_when_it_has_room(
    open_postgresql: Opener, limit_files: Callable[[int, int], None]
) -> None:
    store = open_postgresql()
    store.append(rows(1))
    pid = pid_of(store)
    limit_files(pid, 17 << 20)  # Its log has files of 16 MiB.
    large = [row(f"large {number}", data=memoryview(os.urandom(2 << 20))) for number in range(12)]
    with pytest.raises(StoreUnavailable, match=r"could not extend file|could not write"):
        store.append(large)
    assert store.count(ALL) == 1
    limit_files(pid, resource.RLIM_INFINITY)
    assert store.append(large) == (12, 0, ())
    assert pid_of(store) == pid


def test_a_server_that_only_reads(open_postgresql: Opener, postgresql_server: Server, postgresql_url: str) -> None:
    store = open_postgresql()
    store.append(rows(1))
    database = store._connection.info.dbname
    postgresql_server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    terminate(postgresql_server, store)
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        store.append(rows(10))
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        store.append(rows(10))
    with pytest.raises(StoreUnavailable, match="read-only transaction; it is a replica, or default_transaction_read"):
        open_postgresql(f"{postgresql_url}&schema=new")
    with open_store(postgresql_url) as reader:
        assert reader.count(ALL) == 1
        with pytest.raises(StoreUnavailable, match="read-only"):
            reader.save_checkpoint(Checkpoint("one", "copy", 1))
    postgresql_server.sql(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    assert store.append(rows(10)) == (9, 1, ())  # In a session that began after that.


def test_a_statement_that_took_too_long(open_postgresql: Opener, postgresql_server: Server) -> None:
    store, other = open_postgresql(), open_postgresql(locked=False)
    store.append(rows(1))
    store._connection.execute("SET statement_timeout = '50ms'")
    other._connection.execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        store.append(rows(10))
    other._connection.execute("ROLLBACK")
    assert not other.take_lock()  # The session has gone on, and its lock with it.
    assert store.append(rows(10)) == (9, 1, ())


# --- the schema ---


def test_a_schema_that_is_dropped_underneath_is_made_again(open_postgresql: Opener, postgresql_server: Server) -> None:
    store = open_postgresql()
    store.append([*rows(5), row("1", "other")])
    database = store._connection.info.dbname
    postgresql_server.sql("DROP SCHEMA eventbus_journal CASCADE", database)
    with pytest.raises(StoreUnavailable, match="does not exist"):
        store.append(rows(3, begin=5))
    assert store.append([*rows(3, begin=5), row("2", "other")]) == (4, 0, ())
    assert keys(store.page(ALL, 10)) == [("order", "5"), ("order", "6"), ("order", "7"), ("other", "2")]


def test_journals_of_one_database_are_apart_by_their_schemas(open_postgresql: Opener, postgresql_url: str) -> None:
    first, second = open_postgresql(), open_postgresql(f'{postgresql_url}&schema=odd"name')
    first.append(rows(2))
    assert second.append(rows(3)) == (3, 0, ())
    with open_store(f"{postgresql_url}&schema=odd%22name") as reader:
        assert reader.count(ALL) == 3
    with pytest.raises(StoreUnavailable, match="no journal in the schema 'third'"):
        open_store(f"{postgresql_url}&schema=third")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE eventbus_journal.about SET version = 2", "use a newer one"),
        ("UPDATE eventbus_journal.about SET application = 'other'", "not that of a journal"),
        ("DROP TABLE eventbus_journal.about", "not a journal's"),
    ],
)
def test_a_schema_that_is_no_journal(
    open_postgresql: Opener, postgresql_server: Server, postgresql_url: str, statement: str, said: str
) -> None:
    store = open_postgresql()
    store.close()
    postgresql_server.sql(statement, postgresql_url.partition("?")[0].rpartition("/")[2])
    with open_store(postgresql_url, writes=True) as other, pytest.raises(StoreUnusable, match=said):
        other.take_lock()
    with pytest.raises((StoreUnusable, StoreUnavailable)):
        open_store(postgresql_url)


def test_a_role_that_may_not_make_schemas_writes_to_one_that_is_there(
    open_postgresql: Opener, postgresql_server: Server, postgresql_url: str
) -> None:
    database = postgresql_url.partition("?")[0].rpartition("/")[2]
    role = f"role_of_{database}"
    postgresql_server.sql(f"CREATE ROLE {role} LOGIN", database)
    url = postgresql_url.replace("//postgres@", f"//{role}@")
    try:
        with pytest.raises(StoreUnavailable, match="permission denied for database"):
            open_postgresql(url)
        postgresql_server.sql(f"CREATE SCHEMA mine AUTHORIZATION {role}", database)
        store = open_postgresql(f"{url}&schema=mine")
        assert store.append(rows(3)) == (3, 0, ())
        store.close()
    finally:
        postgresql_server.sql(f"DROP OWNED BY {role}; DROP ROLE {role}", database)


def test_what_is_stored_is_on_the_disk_whatever_the_database_says(
    open_postgresql: Opener, postgresql_server: Server, postgresql_url: str
) -> None:
    database = postgresql_url.partition("?")[0].rpartition("/")[2]
    for given, wanted in (("off", "on"), ("remote_apply", "remote_apply")):
        postgresql_server.sql(f"ALTER DATABASE {database} SET synchronous_commit = {given}")
        store = open_postgresql()
        assert store._connection.execute("SHOW synchronous_commit").fetchone() == (wanted,)
        store.close()


# --- URLs and processes ---


@pytest.mark.parametrize(
    ("url", "database", "schema"),
    [
        ("postgresql:///shop", "postgresql:///shop", "eventbus_journal"),
        ("postgresql://h/shop?schema=a%20b", "postgresql://h/shop", "a b"),
        ("postgresql://h/s?sslmode=require&schema=a&port=5", "postgresql://h/s?sslmode=require&port=5", "a"),
    ],
)
def test_where_a_journal_is(url: str, database: str, schema: str) -> None:
    assert address_of(url)[:2] == (database, schema)


@pytest.mark.parametrize("schema", ["", "x" * 64, "a%00"])
def test_names_of_schemas_that_are_none(schema: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        address_of(f"postgresql:///shop?schema={schema}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/shop", "postgresql://me:...@host/shop"),
        ("postgresql://me@host/shop?password=secret&port=5", "postgresql://me@host/shop?password=...&port=5"),
        ("postgresql://host:5432/shop?user=me", "postgresql://host:5432/shop?user=me"),
        ("postgresql://me:p:q@a:1,b:2/shop", "postgresql://me:...@a:1,b:2/shop"),
        ("postgresql://me:a/b?c@d@host/shop", "postgresql://me:...@host/shop"),
        ("sqlite:////var/a@b:c.db", "sqlite:////var/a@b:c.db"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_a_url_that_libpq_does_not_know() -> None:
    with pytest.raises(UsageError, match="URL of a PostgreSQL database"):
        open_store("postgresql://host/shop?colour=red")


@pytest.mark.parametrize(
    "url", ["//me:se%zzcret@/shop", "//me:se/cret@host/shop", "//me:a@secret@host/shop", "///shop?password=se%zzcret"]
)
def test_a_password_that_is_not_encoded_is_in_no_error(url: str) -> None:
    with pytest.raises(UsageError, match="URL of a PostgreSQL database") as refused:
        open_store(f"postgresql:{url}")
    assert "cret" not in str(refused.value)


def test_a_url_with_a_nul() -> None:
    with pytest.raises(UsageError, match="has a NUL"):
        open_store("postgresql:///shop\0other")


def test_a_user_without_the_rights_hears_what_to_do(postgresql_server: Server, postgresql_url: str) -> None:
    postgresql_server.sql("CREATE ROLE plain LOGIN")
    store = open_store(postgresql_url.replace("postgres@", "plain@"), writes=True)
    with pytest.raises(StoreUnavailable, match=r"permission denied for database .*; GRANT that to the user"):
        store.take_lock()
    store.close()
    postgresql_server.sql("DROP ROLE plain")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE SCHEMA eventbus_journal; CREATE TABLE eventbus_journal.about (x int)", "is not that of a journal"),
        ("DROP TABLE eventbus_journal.events", "has only some of a journal's tables"),
    ],
)
def test_tables_that_are_not_all_of_a_journal(
    open_postgresql: Opener, postgresql_server: Server, postgresql_url: str, statement: str, said: str
) -> None:
    database = postgresql_url.partition("?")[0].rpartition("/")[2]
    if statement.startswith("DROP"):
        open_postgresql().close()
    postgresql_server.sql(statement, database)
    with pytest.raises((StoreUnusable, StoreUnavailable), match=said):
        open_postgresql()


def test_a_database_that_is_not_there(postgresql_url: str) -> None:
    url = postgresql_url.replace("/test_", "/nowhere_")
    with pytest.raises(StoreUnavailable, match=r'database "nowhere_.*" does not exist'):
        open_store(url)
