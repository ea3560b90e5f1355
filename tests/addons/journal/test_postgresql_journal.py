"""Journals and commands on a PostgreSQL store: servers that stop and start, spools, and a standby."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, Selection, open_store
from eventbus_mp.addons.journal.store import StoreUnavailable
from eventbus_mp.cli._stopping import REPEATED_S
from tests.addons.journal.mortal import check_store
from tests.addons.journal.restarts import restart_under_load
from tests.addons.journal.rows import rows
from tests.addons.journal.test_journal import stored_ids
from tests.addons.postgresql import Server
from tests.cli.shell import json_output, output, run, started

ALL = Selection()


def test_a_server_that_is_restarted_under_load_has_each_event_once(
    make_bus: Callable[..., EventBus], run_dir: Path, postgresql_server: Server, postgresql_url: str
) -> None:
    make_bus(crashes_max=1_000, topics=["a", "b"], memory_bytes_max=64 << 20).topics()
    published = restart_under_load(postgresql_server, run_dir, postgresql_url, 4)
    check_store(postgresql_url, published)


LOCKED = "SELECT pg_terminate_backend(pid, 20000) FROM pg_locks WHERE locktype = 'advisory' AND granted"


def test_a_writer_and_its_standby_agree_after_each_loss_of_a_session(
    make_bus: Callable[..., EventBus], postgresql_server: Server, postgresql_url: str
) -> None:
    bus, other = make_bus(topics=["a"]), make_bus()
    quick: dict[str, Any] = {"batch_within_s": 0.005}
    with Journal(bus, postgresql_url, **quick) as first, Journal(other, postgresql_url, **quick) as second:
        for number in range(5):
            assert postgresql_server.sql(LOCKED) == "t"
            bus.notify(Event(number, "a", None))
            bus.drain(timeout_s=60)
        states = {first.status().state, second.status().state}
        assert "writing" in states
        assert "failed" not in states
    assert stored_ids(postgresql_url) == list(range(5))


def test_events_wait_while_the_server_is_away(
    bus: EventBus, postgresql_server: Server, postgresql_url: str, heard: Callable[[str], None]
) -> None:
    with Journal(bus, postgresql_url, batch_within_s=0.005) as journal:
        bus.notify(Event(0, "a", None))
        bus.drain()
        postgresql_server.stop()
        try:
            bus.notify_many(Event(number, "a", None) for number in range(1, 3_000))
            heard("events cannot be stored")
            (subscriber,) = bus.snapshot().subscribers
            assert (subscriber.completed, subscriber.queued + subscriber.in_flight) == (1, 2_999)
        finally:
            postgresql_server.start()
        heard("is back after")
        bus.drain(timeout_s=60)
        assert stored_ids(postgresql_url) == list(range(3_000))
        assert journal.status().stored == 3_000


def test_a_table_that_somebody_has_locked_keeps_nobody_from_being_told_and_from_stopping(
    bus: EventBus, postgresql_url: str, heard: Callable[[str], None]
) -> None:
    import psycopg

    with psycopg.connect(postgresql_url) as other, Journal(bus, postgresql_url, batch_within_s=0.005) as journal:
        other.execute("LOCK TABLE eventbus_journal.events")
        bus.notify(Event(0, "a", None))
        heard("lock timeout; another session has locked the table")
        journal.stop()
    with Journal(bus, postgresql_url):
        bus.drain(timeout_s=60)
    assert stored_ids(postgresql_url) == [0]


def test_a_second_signal_ends_a_journal_whose_server_says_nothing(
    run_dir: Path, postgresql_server: Server, postgresql_url: str
) -> None:
    with (
        EventBus("test", ["a"], run_dir=str(run_dir)) as bus,
        started(run_dir, "journal", "run", "test", "--db", postgresql_url) as service,
    ):
        assert service.stdout is not None
        assert service.stdout.readline() == f"test: writing, {postgresql_url}\n"
        pid = int(postgresql_server.sql("SELECT pid FROM pg_locks WHERE locktype = 'advisory'"))
        os.kill(pid, signal.SIGSTOP)
        try:
            bus.notify(Event(1, "a", None))
            while service.poll() is None:
                service.terminate()
                with suppress(subprocess.TimeoutExpired):
                    service.wait(REPEATED_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert service.returncode == -signal.SIGTERM
        with started(run_dir, "journal", "run", "test", "--db", postgresql_url):
            bus.drain(timeout_s=60)
        bus.shutdown()
    assert stored_ids(postgresql_url) == [1]


def test_tail_goes_on_when_the_server_is_back(run_dir: Path, postgresql_server: Server, postgresql_url: str) -> None:
    with open_store(postgresql_url, writes=True) as store:
        assert store.take_lock()
        store.append(rows(1))
        with started(run_dir, "journal", "tail", "shop", "--db", postgresql_url, "--json") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["id"] == "0"
            postgresql_server.stop()
            try:
                assert "what was stored meanwhile follows" in process.stderr.readline()
            finally:
                postgresql_server.start()
            with pytest.raises(StoreUnavailable):
                store.append(rows(2))
            store.append(rows(2))
            assert json.loads(process.stdout.readline())["id"] == "1"
            process.terminate()
            assert process.communicate() == ("", "")
            assert process.returncode == 0


def test_events_go_to_the_spool_while_the_server_is_away(
    bus: EventBus, tmp_path: Path, postgresql_server: Server, postgresql_url: str, heard: Callable[[str], None]
) -> None:
    spool = f"sqlite:///{tmp_path / 'spool.db'}"
    with Journal(bus, postgresql_url, batch_within_s=0.005, on_outage="spool", spool=spool):
        bus.notify(Event(0, "a", None))
        bus.drain()
        postgresql_server.stop()
        try:
            bus.notify_many(Event(number, "ab"[number % 2], None) for number in range(1, 3_000))
            bus.notify(Event("nul\0", "a", None))  # SQLite holds it, and PostgreSQL does not.
            bus.drain(timeout_s=60)
            heard("events go to the spool")
        finally:
            postgresql_server.start()
        heard("has what was in the spool")
        bus.notify(Event(3_000, "a", None))
        bus.drain(timeout_s=60)
    assert stored_ids(postgresql_url) == list(range(3_001))
    assert stored_ids(spool) == []
    with open_store(postgresql_url) as store:
        assert [one.id for one in store.rejected(10)] == ["nul\0"]
        (noted,) = store.runs()
        assert (noted.stored, noted.rejected) == (3_001, 1)


def test_a_password_is_neither_logged_nor_shown(bus: EventBus, postgresql_url: str, caplog: Any) -> None:
    caplog.set_level("INFO", "eventbus_mp.journal")
    url = postgresql_url.replace("postgres@", "postgres:secret@")
    with Journal(bus, url) as journal:
        assert "postgres:...@" in journal.url
        assert "secret" not in caplog.text
    assert "is stored in postgresql://postgres:...@" in caplog.text


def test_the_commands_of_a_journal_in_a_database(bus: EventBus, run_dir: Path, postgresql_url: str) -> None:
    db = ("--db", postgresql_url)
    with started(run_dir, "journal", "run", "test", *db) as first, started(run_dir, "journal", "run", "test", *db):
        assert first.stdout is not None
        assert first.stdout.readline() in (
            f"test: writing, {postgresql_url}\n",
            f"test: standing by, {postgresql_url}\n",
        )
        while not bus.subscribers("a"):
            bus.drain()
        bus.notify_many(Event(number, "a", {"n": number}, transaction_id=7) for number in range(20))
        bus.drain(timeout_s=60)
        assert output(run_dir, "journal", "tail", "test", *db, "-n", 3, "--count", 3).count("\n") == 3
    listed = json_output(run_dir, "journal", "list", "test", *db, "--limit", 2)
    assert [(entry["id"], entry["data"]) for entry in listed] == [(19, {"n": 19}), (18, {"n": 18})]
    assert json_output(run_dir, "journal", "count", "test", *db, "--int-transaction", 7)["topics"] == {"a": 20}
    assert json_output(run_dir, "journal", "show", "test", "a", "7", "--int", *db)["data"] == {"n": 7}
    exported = output(run_dir, "journal", "export", "test", *db, "--since", "1h").splitlines()
    assert [json.loads(line)["id"] for line in exported] == list(range(20))
    assert "nothing is missing" in output(run_dir, "journal", "verify", "test", *db)
    with EventBus("other", ["a"], run_dir=str(run_dir)) as copy, copy.inbox("copy", ["a"]) as inbox:
        output(run_dir, "journal", "replay", "test", *db, "--to", "other", "--as", "friday")
        assert [event.id for _, event in inbox.events(100)] == list(range(20))
        inbox.close()
        copy.shutdown()
    (checkpoint,) = json_output(run_dir, "journal", "checkpoints", "test", *db)
    assert (checkpoint["name"], checkpoint["target"], checkpoint["ended"]) == ("friday", "other", True)
    missing = run(run_dir, "journal", "count", "test", "--db", f"{postgresql_url}&schema=nowhere")
    assert missing.returncode != 0
    assert "there is no journal in the schema 'nowhere'" in missing.stderr


def test_without_psycopg_a_command_says_what_to_install(run_dir: Path) -> None:
    program = "import sys; sys.modules['psycopg'] = None; from eventbus_mp.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "journal", "count", "test", "--db", "postgresql:///x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "PostgreSQL needs the package psycopg, which is not installed; type: pip install" in done.stderr


@pytest.mark.parametrize("topic", ["a", "a|b", ""])
def test_a_page_is_found_by_an_index_whatever_is_selected(open_postgresql: Callable[..., Any], topic: str) -> None:
    store = open_postgresql()
    for begin in range(0, 4_000, 1_000):
        store.append([*rows(500, "a", begin=begin), *rows(500, "b", begin=begin), *rows(10, "c", begin=begin)])
    store._connection.execute("ANALYZE")
    plans: list[str] = []
    execute = store._connection.execute

    def explain(query: str, *arguments: Any, **how: Any) -> Any:
        if "LIMIT" in query and "events" in query:
            plans.append("\n".join(str(line) for (line,) in execute(f"EXPLAIN {query}", *arguments)))
        return execute(query, *arguments, **how)

    store._connection.execute = explain
    for newest_first in (False, True):
        assert len(store.page(Selection(topic=topic, after=500), 10, newest_first=newest_first)) == 10
    assert len(plans) == 2
    assert [plan for plan in plans if "Sort" in plan or "Index Scan" not in plan] == []
