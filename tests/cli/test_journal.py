"""`eventbus-mp journal run` as a service."""

import json
import os
import signal
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Journal, Selection, open_store
from tests.cli.shell import run, started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_journal_runs_until_a_signal_comes(run_dir: Path, tmp_path: Path, number: int) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'test.db'}"
    with started(run_dir, "journal", "run", "test", "--db", url, "--keep", "1h", "--keep", "debug_=1m") as service:
        assert service.stdout is not None
        assert service.stdout.readline() == f"test: writing, {url}\n"
        with EventBus("test", ["a"], run_dir=str(run_dir)) as bus:
            bus.notify_many(Event(number, "a", number) for number in range(100))
            bus.drain()
            os.kill(service.pid, number)
            assert service.stdout.read() == f"test: stopped, {url}, 100 events stored\n"
            assert service.wait() == 0
            bus.shutdown()
    with open_store(url) as store:
        assert store.count(Selection()) == 100


def test_a_journal_in_json_and_its_standby(run_dir: Path, tmp_path: Path) -> None:
    command = ("journal", "run", "test", "--db", f"sqlite:///{tmp_path / 'test.db'}", "--json")
    with started(run_dir, *command) as first, started(run_dir, *command) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        states = {json.loads(service.stdout.readline())["state"] for service in (first, second) if service.stdout}
        assert states == {"writing", "standing by"}
        for service in (first, second):
            service.terminate()
            assert service.wait() == 0
        ends = [json.loads(service.stdout.readline()) for service in (first, second) if service.stdout]
        assert [(end["state"], end["stored"]) for end in ends] == [("stopped", 0)] * 2
        with EventBus("test", run_dir=str(run_dir)) as bus:
            bus.shutdown()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--db", "mysql://x"), "URL of a journal"),
        (("--keep", "soon"), "is not how long to keep events"),
        (("--keep", "=1h"), "give TIME, or RE=TIME"),
        (("--pattern", "("), "not a regular expression"),
    ],
)
def test_wrong_arguments(run_dir: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(run_dir, "journal", "run", "test", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_verify_says_what_passed_and_what_could_not_be_stored(run_dir: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with EventBus("test", ["a"], run_dir=str(run_dir), orphan_grace_s=0.0) as bus, bus.inbox("other", [""]) as inbox:
        with Journal(bus, url):
            bus.notify(Event(1, "a", None))
        done = run(run_dir, "journal", "verify", "test", "--db", url)
        bus.notify_many(Event(number, "a", None) for number in (2, 3))
        gap = run(run_dir, "journal", "verify", "test", "--db", url)
        with Journal(bus, url):
            bus.notify(Event(4, "a", None, occurred_at=1 << 70))
            inbox.complete_many([shadow for shadow, _ in inbox.events(10)])
            bus.drain()
        found = run(run_dir, "journal", "verify", "test", "--db", url, "--json")
        bus.shutdown()
    assert "have passed since" not in done.stdout
    assert (gap.returncode, "topic a: 2 events have passed since the journal ended" in gap.stdout) == (1, True)
    facts = json.loads(found.stdout)
    assert (found.returncode, facts["runs"], [one["id"] for one in facts["rejected"]]) == (1, 2, [4])
    assert [one["events"] for one in facts["gaps"] if one["topic"] == "a"] == [2]
