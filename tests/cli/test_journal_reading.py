"""`eventbus-mp journal list, show, count, export, tail, replay, checkpoints`: as processes, over a stored journal."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import open_store
from eventbus_mp.addons.journal.replay import Ttl
from eventbus_mp.cli._exits import Exit
from eventbus_mp.cli._journal.replay import TTL
from tests.addons.journal.rows import row, rows
from tests.cli.shell import environment, json_output, output, run, started


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal' / 'shop.db'}"


@pytest.fixture
def stored(url: str) -> str:
    """A journal of four events."""
    with open_store(url, writes=True) as store:
        assert store.take_lock()
        store.append(
            [
                row("1", data={"total": 2.5}, transaction_id="t"),
                row(7, data=[1, 2], transaction_id=9),
                row("7", "other", at_s=1_000_000, data={3}),
                row("2", at_s=2_000_000, data=memoryview(b"raw"), headers={"a": "b"}),
            ]
        )
    return url


def test_list_shows_the_newest_first(run_dir: Path, stored: str) -> None:
    lines = output(run_dir, "journal", "list", "shop", "--db", stored, "--limit", 2).splitlines()
    assert [line.split()[0] for line in lines if line.split()[0].isdigit()] == ["4", "3"]
    assert lines[-1] == "perhaps there are more; --limit N shows them"
    assert output(run_dir, "journal", "list", "shop", "--db", stored, "--topic", "none") == "no such entry\n"


def test_list_in_json_has_the_data(run_dir: Path, stored: str) -> None:
    found = json_output(run_dir, "journal", "list", "shop", "--db", stored, "--oldest-first")
    assert [(entry["position"], entry["id"]) for entry in found] == [(1, "1"), (2, 7), (3, "7"), (4, "2")]
    assert found[0]["data"] == {"total": 2.5}
    assert found[0]["recorded_at"] == "1970-01-01T00:00:00Z"
    assert found[2]["data"] == {"$type": "set", "items": [3]}
    assert found[3]["headers"] == {"a": "b"}


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--topic", "order"), ["1", 7, "2"]),
        (("--transaction", "t"), ["1"]),
        (("--int-transaction", 9), [7]),
        (("--after", 1, "--before", 4), [7, "7"]),
        (("--since", "1970-01-10T00:00Z"), ["7", "2"]),
        (("--until", "1970-01-12T13:46:41+00:00"), ["1", 7, "7"]),
        (("--since", "1d"), []),
        (("--until", "5m", "--limit", 1), ["1"]),
    ],
)
def test_what_can_be_selected(options: tuple[object, ...], ids: list[object], run_dir: Path, stored: str) -> None:
    lines = output(run_dir, "journal", "export", "shop", "--db", stored, *options).splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "soon"),
        ("--since", "1e9d"),
        ("--after", "-1"),
        ("--after", "9" * 30),
        ("--after", "9" * 5_000),
        ("--int-transaction", "9" * 30),
        ("--transaction", "a", "--int-transaction", 1),
        ("--transaction", "\udcff"),
        ("--topic", "("),
    ],
)
def test_what_selects_nothing_is_refused(options: tuple[object, ...], run_dir: Path, stored: str) -> None:
    done = run(run_dir, "journal", "count", "shop", "--db", stored, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_journal_whose_name_is_too_long(run_dir: Path) -> None:
    done = run(run_dir, "journal", "count", "a" * 5_000)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be opened: File name too long" in done.stderr
    assert "Traceback" not in done.stderr


def test_show_tells_a_text_from_an_integer(run_dir: Path, stored: str) -> None:
    shown = output(run_dir, "journal", "show", "shop", "order", 7, "--int", "--db", stored)
    assert "position       2\n" in shown
    assert "id             7\n" in shown
    assert shown.endswith("[1, 2]\n")
    done = run(run_dir, "journal", "show", "shop", "order", "7", "--db", stored)
    assert (done.returncode, done.stdout) == (Exit.NOT_FOUND, "")
    assert "no event '7' of topic 'order'" in done.stderr


def test_count_by_topic(run_dir: Path, stored: str) -> None:
    assert json_output(run_dir, "journal", "count", "shop", "--db", stored) == {
        "events": 4,
        "topics": {"order": 3, "other": 1},
    }
    assert output(run_dir, "journal", "count", "shop", "--db", stored).endswith("4 events\n")


def test_export_of_what_was_on_the_bus(run_dir: Path, stored: str) -> None:
    lines = output(run_dir, "journal", "export", "shop", "--db", stored, "--encoded").splitlines()
    last = json.loads(lines[-1])
    assert base64.b64decode(last["buffers"])[:3] == b"raw"
    assert last["format"] == 2


def test_a_journal_that_is_not_there(run_dir: Path, url: str) -> None:
    done = run(run_dir, "journal", "list", "shop", "--db", url)
    assert done.returncode not in (0, 2)
    assert done.stdout == ""
    assert done.stderr.startswith("eventbus-mp: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tail_follows(number: int, run_dir: Path, stored: str) -> None:
    with started(run_dir, "journal", "tail", "shop", "--db", stored, "-n", 1, "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["position"] == 4
        with open_store(stored, writes=True) as store:
            assert store.take_lock()
            store.append([row("new", data="x")])
        assert json.loads(process.stdout.readline())["id"] == "new"
        process.send_signal(number)
        assert process.communicate() == ("", "")
        assert process.returncode == 0


def test_tail_ends_after_a_count(run_dir: Path, stored: str) -> None:
    lines = output(run_dir, "journal", "tail", "shop", "--db", stored, "--count", 2).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_replay_says_what_it_would_do_and_does_it(bus: EventBus, run_dir: Path, stored: str) -> None:
    command = ("journal", "replay", "shop", "--db", stored, "--to", bus.name)
    bus.topics()
    assert json_output(run_dir, *command, "--dry-run", "--allow-drop")["unheard"] == ["order", "other"]
    refused = run(run_dir, *command)
    assert (refused.returncode != 0, refused.stdout) == (True, "")
    assert "nobody is subscribed to topic 'order'" in refused.stderr
    found: list[Event] = []
    bus.on("", name="all")(lambda event: found.append(event.copy()))
    assert output(run_dir, *command, "--dry-run").endswith(f"4 events would be published on bus {bus.name!r}\n")
    assert output(run_dir, *command) == f"4 events published on bus {bus.name!r}\n"
    bus.drain()
    assert [event.id for event in found] == ["1", 7, "7", "2"]
    assert bytes(found[3].data) == b"raw"


def test_a_replay_that_is_stopped_goes_on(bus: EventBus, run_dir: Path, url: str) -> None:
    with open_store(url, writes=True) as store:
        assert store.take_lock()
        store.append(rows(100))
    command = ("journal", "replay", "shop", "--db", url, "--to", bus.name, "--as", "again", "--json")
    with bus.inbox("all", ["order"]) as inbox:
        with started(run_dir, *command, "--rate", 20) as process:
            first = inbox.get(timeout_s=60)
            assert first is not None
            inbox.complete(first)
            process.send_signal(signal.SIGINT)
            said, complaint = process.communicate()
            assert process.returncode == 130
        published = json.loads(said)["published"]
        assert 1 <= published < 100
        assert "the same command with --as again goes on there" in complaint
        (checkpoint,) = json_output(run_dir, "journal", "checkpoints", "shop", "--db", url)
        assert (checkpoint["next_position"], checkpoint["ended"]) == (published + 1, False)
        assert json_output(run_dir, *command[:-1])["published"] == 100 - published
        ids = [first.id]
        while len(ids) < 100:
            for shadow in inbox.get_many(100, timeout_s=60):
                ids.append(shadow.id)
                inbox.complete(shadow)
        assert ids == [str(number) for number in range(100)]
    assert run(run_dir, *command).returncode == 2
    assert output(run_dir, "journal", "checkpoints", "shop", "--db", url, "--drop", "again") == ""
    assert json_output(run_dir, "journal", "checkpoints", "shop", "--db", url) == []


PRINTS_ITS_PEAK = """
import re, sys
from eventbus_mp.cli import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def test_export_takes_no_more_memory_for_more_entries(run_dir: Path, url: str) -> None:
    with open_store(url, writes=True) as store:
        assert store.take_lock()
        for begin in range(0, 150, 10):
            store.append([row(begin + number, data=b"x" * 1_000_000) for number in range(10)])
    peaks = []
    for limit in (10, 150):
        command = ("journal", "export", "shop", "--db", url, "--encoded", "--limit", str(limit))
        done = subprocess.run(
            [sys.executable, "-c", PRINTS_ITS_PEAK, *command],
            env={**os.environ, "EVENTBUS_MP_RUN_DIR": str(run_dir)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        peaks.append(int(done.stderr))
    assert peaks[1] - peaks[0] < 20_000, f"KiB, for 10 MB and 150 MB of entries: {peaks}"


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        ("| head -n 1", 0, ""),
        ("> /dev/full", 1, "eventbus-mp: the output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
def test_output_that_nobody_takes(output: str, code: int, said: str, run_dir: Path, url: str) -> None:
    with open_store(url, writes=True) as store:
        assert store.take_lock()
        store.append(rows(3_000))
    command = f"{sys.executable} -m eventbus_mp journal export shop --db '{url}' {output}"
    environ = environment(run_dir)
    done = subprocess.run(command, shell=True, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_the_choices_of_ttl_are_those_of_a_replay() -> None:
    """The command line has its own list: it does not import the journal to make its parser."""
    assert get_args(Ttl) == TTL
