"""`eventbus-mp outbox` as a user runs it."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.outbox import Outbox, schema
from tests.cli.shell import json_output, output, run, started
from tests.helpers import until


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Of a database with an outbox."""
    made = sqlite3.connect(tmp_path / "shop.db")
    Outbox.create_table(made)
    yield made
    made.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shop.db'}"


def add(connection: sqlite3.Connection, *events: Event) -> None:
    with connection:
        Outbox(connection).add_many(events)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_relay_runs_until_a_signal_comes(
    run_dir: Path, connection: sqlite3.Connection, url: str, number: int
) -> None:
    with EventBus("test", ["a"], run_dir=str(run_dir)) as bus, bus.inbox("s", ["a"]) as inbox:
        with started(run_dir, "outbox", "run", "test", "--db", url) as service:
            assert service.stdout is not None
            assert service.stdout.readline() == f"test: publishing, {url}\n"
            add(connection, *(Event(id, "a", id) for id in range(100)))
            found: list[object] = []
            while len(found) < 100:
                shadows = inbox.get_many(100, 20)
                inbox.complete_many(shadows)
                found += [shadow.id for shadow in shadows]
            assert found == list(range(100))
            until(lambda: connection.execute("SELECT count(*) FROM eventbus_outbox").fetchone() == (0,))
            os.kill(service.pid, number)
            assert service.stdout.read() == f"test: stopped, {url}, 100 events published\n"
            assert service.wait() == 0
        bus.shutdown()


def test_a_relay_in_json_and_its_standby(run_dir: Path, connection: sqlite3.Connection, url: str) -> None:
    command = ("outbox", "run", "test", "--db", url, "--json")
    with started(run_dir, *command) as first, started(run_dir, *command) as second:
        states = {json.loads(service.stdout.readline())["state"] for service in (first, second) if service.stdout}
        assert states == {"publishing", "standing by"}
        for service in (first, second):
            service.terminate()
            assert service.wait() == 0
        with EventBus("test", run_dir=str(run_dir)) as bus:
            bus.shutdown()


def test_once(run_dir: Path, connection: sqlite3.Connection, url: str) -> None:
    with EventBus("test", ["a"], run_dir=str(run_dir)) as bus, bus.inbox("s", ["a"]) as inbox:
        add(connection, Event(1, "a", None))
        assert output(run_dir, "outbox", "run", "test", "--db", url, "--once", "--require", "s", "--poll", 1).endswith(
            "1 event published\n"
        )
        add(connection, Event(2, "a", None))
        with connection:
            connection.execute("UPDATE eventbus_outbox SET topic = 'no\ntopic'")
        refused = run(run_dir, "outbox", "run", "test", "--db", url, "--once", "--batch", 1, "--keep", "1h")
        assert (refused.returncode, "0 events published, 1 refused" in refused.stdout) == (1, True)
        add(connection, Event(3, "b", None))
        held = run(run_dir, "outbox", "run", "test", "--db", url, "--once")
        assert (held.returncode, "nobody is subscribed to b" in held.stderr) == (4, True)
        dropped = run(run_dir, "outbox", "run", "test", "--db", url, "--once", "--allow-drop", "--json")
        assert (dropped.returncode, json.loads(dropped.stdout)["dropped"]) == (0, 1)
        assert [shadow.id for shadow in inbox.get_many(9, 20)] == [1]
        inbox.close()
        bus.shutdown()


def test_looking(run_dir: Path, connection: sqlite3.Connection, url: str) -> None:
    add(connection, Event(1, "order", {"n": 1}, source="x"), Event("2", "order", None), Event(3, "other", None))
    connection.execute("UPDATE eventbus_outbox SET done_ns = 5, reason = 'too\nlarge' WHERE position = 2")
    connection.execute("UPDATE eventbus_outbox SET format = 99 WHERE position = 3")
    connection.commit()
    counts = json_output(run_dir, "outbox", "count", "--db", url)
    assert (counts["waiting"], counts["refused"]) == (2, 1)
    assert counts["topics"]["order"].pop("oldest_s") >= 0
    assert counts["topics"]["order"] == {"waiting": 1, "refused": 1, "published": 0}
    assert output(run_dir, "outbox", "count", "--db", url).endswith("2 events waiting, 1 refused\n")
    assert [one["position"] for one in json_output(run_dir, "outbox", "list", "--db", url)] == [1, 3]
    assert [one["id"] for one in json_output(run_dir, "outbox", "list", "--db", url, "--after", 1, "--limit", 5)] == [3]
    assert "too\\nlarge" in output(run_dir, "outbox", "list", "--db", url, "--refused")
    assert output(run_dir, "outbox", "list", "--db", url, "--published") == "no event is published\n"
    assert json_output(run_dir, "outbox", "show", "--db", url, 1)["data"] == {"n": 1}
    assert "'x'" in output(run_dir, "outbox", "show", "--db", url, 1)
    assert "format 99" in json_output(run_dir, "outbox", "show", "--db", url, 3)["error"]
    assert run(run_dir, "outbox", "show", "--db", url, 3).returncode == 1
    assert run(run_dir, "outbox", "show", "--db", url, 9).returncode == 4


def test_what_was_refused_is_published_or_deleted(run_dir: Path, connection: sqlite3.Connection, url: str) -> None:
    add(connection, *(Event(id, "a", None) for id in range(1, 5)))
    connection.execute("UPDATE eventbus_outbox SET done_ns = 5, reason = 'why' WHERE position < 4")
    connection.commit()
    assert output(run_dir, "outbox", "retry", "--db", url, 1) == "1 event to be published\n"
    assert run(run_dir, "outbox", "retry", "--db", url, 1).returncode == 4
    assert json_output(run_dir, "outbox", "discard", "--db", url, 2) == {"discarded": 1}
    assert run(run_dir, "outbox", "discard", "--db", url, 2, 4).returncode == 4
    assert json_output(run_dir, "outbox", "retry", "--db", url) == {"retried": 1}
    assert json_output(run_dir, "outbox", "count", "--db", url)["waiting"] == 3


def test_the_schema(run_dir: Path) -> None:
    assert output(run_dir, "outbox", "schema", "sqlite") == schema("sqlite")
    statements = json_output(run_dir, "outbox", "schema", "postgresql", "--table", "events.outbox")
    assert statements[0].split(" (")[0] == "CREATE TABLE IF NOT EXISTS events.outbox"
    assert len(statements) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "test", "--db", "mysql://x"), 2, "is not the URL of a database"),
        (("run", "test", "--db", "sqlite:///x.db", "--keep", "soon"), 2, "is not how long to keep events"),
        (("run", "test", "--db", "sqlite:////nowhere/x.db"), 1, "there is no database /nowhere/x.db"),
        (("count", "--db", "sqlite:////nowhere/x.db"), 1, "there is no database /nowhere/x.db"),
        (("list", "--db", "sqlite:///x.db", "--table", "a b"), 2, "give a name"),
        (("schema", "mysql"), 2, "invalid choice"),
        (("show", "--db", "sqlite:///x.db", 1 << 63), 2, "is not a number, 1 or more"),
    ],
)
def test_wrong_arguments(run_dir: Path, arguments: tuple[object, ...], code: int, said: str) -> None:
    done = run(run_dir, "outbox", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
