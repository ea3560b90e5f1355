"""The one module that imports psycopg, and the server that the tests have."""

import subprocess
import sys
from pathlib import Path

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.journal import open_store
from eventbus_mp.addons.outbox import Outbox, open_outbox
from tests.addons.postgresql import Server
from tests.addons.postgresql_pooler import running_pooler

PROGRAM = """
import sys
sys.modules["psycopg"] = None
from eventbus_mp import UsageError
try:
    import eventbus_mp.addons.postgresql
except UsageError as error:
    print(error)
"""


def test_without_psycopg_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "PostgreSQL needs the package psycopg, which is not installed; type: pip install 'eventbus-mp[postgresql]'\n"
    )


def test_a_connection_says_who_it_is(postgresql_url: str) -> None:
    from eventbus_mp.addons.postgresql import connected

    with connected(postgresql_url, "a test") as db:
        assert db.execute("SELECT current_setting('application_name')").fetchone() == ("a test",)
        assert db.autocommit


def test_an_error_is_explained(postgresql_url: str) -> None:
    from eventbus_mp.addons.postgresql import connected, explained, psycopg

    with connected(postgresql_url, "a test") as db, pytest.raises(psycopg.errors.UndefinedTable) as raised:
        db.execute("SELECT 1\nFROM nowhere")
    assert explained(raised.value) == 'relation "nowhere" does not exist'
    with pytest.raises(psycopg.OperationalError) as lost:
        connected("postgresql:///test?host=/nowhere", "a test")
    assert "\n" not in explained(lost.value)


def test_a_server_is_stopped_and_started(postgresql_server: Server, postgresql_url: str) -> None:
    from eventbus_mp.addons.postgresql import connected, psycopg

    with connected(postgresql_url, "a test") as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS n")
        postgresql_server.restart("immediate")
        with pytest.raises(psycopg.OperationalError):
            db.execute("SELECT n FROM t")
        assert db.closed
    with connected(postgresql_url, "a test") as db:
        assert db.execute("SELECT n FROM t").fetchone() == (1,)


def test_a_pooler_that_shares_sessions_is_refused(
    postgresql_server: Server, postgresql_url: str, tmp_path: Path
) -> None:
    """Two would have its lock, and the programs of its other clients our settings."""
    import psycopg

    database = postgresql_url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgresql_url) as connection:
        Outbox.create_table(connection)
    with running_pooler(postgresql_server.socket, database, tmp_path) as url:
        with open_store(url, writes=True) as store, pytest.raises(UsageError, match="pooler that shares sessions"):
            store.take_lock()
        with pytest.raises(UsageError, match="pooler that shares sessions"):
            open_store(url)
        with open_outbox(url) as outbox:
            assert outbox.counts() == {}
            with pytest.raises(UsageError, match="pool_mode=session"):
                outbox.take_lock()
        with psycopg.connect(url) as user:
            assert user.execute("SHOW search_path").fetchone() == ('"$user", public',)
