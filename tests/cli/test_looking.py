"""The commands that look at a bus: status, topics, subscribers, events, stuck."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from tests.cli.shell import environment, json_output, on_terminal, output, run

LONG = "a_topic_with_a_name_that_is_longer_than_any_terminal_is_wide_" * 4


def test_topics_with_their_numbers(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a"])
    bus.notify_many(Event(number, "a", number) for number in range(3))
    heads, first, second = output(run_dir, "topics", "test").splitlines()
    assert heads.split() == ["topic", "unsettled", "oldest", "bytes", "notified", "delivered", "dropped"]
    assert first.split()[:2] == ["a", "3"]
    assert second.split()[:3] == ["b", "0", "-"]
    assert [row["name"] for row in json_output(run_dir, "topics", "test", "b|c")] == ["b"]
    wrong = run(run_dir, "topics", "test", "(")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "pattern '(' does not compile" in wrong.stderr


def test_a_bus_without_topics_and_one_with_many(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    bus = make_bus()
    bus.topics()
    assert output(run_dir, "topics", "test") == ""
    assert json_output(run_dir, "topics", "test") == []
    assert "\ntopic" not in output(run_dir, "status", "test")
    names = [*(f"topic_{number}" for number in range(500)), LONG, "größe_注文"]
    for name in names:
        bus.register_topic(name)
    lines = output(run_dir, "topics", "test").splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(names)  # whole, each on one line


def test_subscribers_with_what_they_get(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a", "c.*"])
    bus.on("b", name="billing")(print)
    heads, audit, billing = output(run_dir, "subscribers", "test").splitlines()
    assert heads.split()[:5] == ["subscriber", "patterns", "processes", "queued", "in"]
    assert audit.split() == ["audit", "a", "c.*", str(os.getpid()), "0", "0", "0"]
    assert billing.startswith("billing")
    (shown,) = json_output(run_dir, "subscribers", "test", "--topic", "b")
    assert (shown["name"], shown["patterns"], shown["pids"]) == ("billing", ["b"], [os.getpid()])
    unknown = run(run_dir, "subscribers", "test", "--topic", "bb")
    assert unknown.returncode == 4
    assert "topic 'bb' is not registered on bus 'test'; did you mean 'b'?" in unknown.stderr


def test_events_and_who_has_not_settled_them(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("audit", ["a"], credit=1)
    bus.notify_many([Event("one", "a", 1), Event(2, "a", 2), Event("elsewhere", "b", 3)])
    assert inbox.get(10) is not None
    heads, first, second = output(run_dir, "events", "test", "a").splitlines()
    assert heads.split() == ["id", "age", "subscriber", "state", "process", "why"]
    assert first.startswith("'one'")
    assert first.split()[3:6] == ["audit", "in_flight", str(os.getpid())]
    assert second.startswith("2 ")
    assert "its processes hold 1 deliveries" in second
    assert "the topic has 2 unsettled events" in output(run_dir, "events", "test", "a", "--limit", 1)
    assert [row["id"] for row in json_output(run_dir, "events", "test", "a")] == ["one", 2]
    assert output(run_dir, "events", "test", "b") == "no unsettled event\n"
    assert output(run_dir, "events", "test", "a", "--older-than", 900) == "no event has been unsettled for 900 s\n"
    assert run(run_dir, "events", "test", "c").returncode == 4
    stuck = output(run_dir, "stuck", "test", "--older-than", 0).splitlines()
    assert [line.split()[2:5] for line in stuck] == [["a", "'one'", "audit:"], ["a", "2", "audit:"]]
    assert len(json_output(run_dir, "stuck", "test", "--older-than", 0, "--limit", 1)) == 1
    assert output(run_dir, "stuck", "test", "--older-than", 1000) == ""


def test_status_lists_and_shows_buses(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    assert "no bus is running" in output(run_dir, "status")
    assert json_output(run_dir, "status") == []
    make_bus(topics=["a", "b"]).topics()
    assert output(run_dir, "status") == "test\n"
    snapshot = json_output(run_dir, "status", "test")
    assert [topic["name"] for topic in snapshot["topics"]] == ["a", "b"]
    assert snapshot["version"] == 1
    text = output(run_dir, "status", "test")
    assert f"bus test, incarnation {snapshot['manager']['incarnation']}" in text
    assert str(os.getpid()) in text


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["topics"],
        ["subscribers"],
        ["events", "a"],
        ["show", "a", "1"],
        ["story", "a", "1"],
        ["explain", "a", "1"],
        ["stuck"],
        ["publish", "a", "1"],
        ["tail"],
        ["dead-letters", "ls"],
        ["drain"],
        ["stop"],
        ["top", "--once"],
    ],
    ids=lambda command: command[0],
)
def test_a_bus_that_does_not_run_is_not_started(command: list[str], run_dir: Path) -> None:
    head = 2 if command[0] == "dead-letters" else 1
    done = run(run_dir, *command[:head], "test", *command[head:])
    assert (done.returncode, done.stdout) == (3, "")
    assert f"no bus 'test' is running below {run_dir}; there is none at all" in done.stderr
    assert not run_dir.exists()


def test_a_name_that_was_mistyped(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    assert f"no bus 'tset' is running below {run_dir}; there is test" in run(run_dir, "topics", "tset").stderr


def test_a_reader_that_leaves_early(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    """As `eventbus-mp topics shop | head -1`."""
    make_bus(topics=[f"{LONG}{number}" for number in range(400)]).topics()  # more than a pipe holds
    command = [sys.executable, "-m", "eventbus_mp", "topics", "test"]
    with subprocess.Popen(
        command, env=environment(run_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("topic")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_on_a_terminal_loses_nothing(columns: int, run_dir: Path, bus: EventBus) -> None:
    bus.inbox("a_subscriber_with_a_name_that_is_longer_than_a_narrow_terminal", ["a", "bbbbbbbbbbb.*"])
    shown, code = on_terminal(columns, run_dir, "subscribers", "test")
    assert code == 0
    assert "\x1b[1m" in shown  # bold heads
    plain = re.sub(r"\x1b\[\d*m", "", shown)
    for word in ("subscriber", "patterns", "processes", "queued", "in flight", "completed", str(os.getpid())):
        assert word in plain
    if columns == 80:
        assert max(map(len, plain.splitlines())) <= 80
    uncoloured, _ = on_terminal(columns, run_dir, "subscribers", "test", NO_COLOR="1")
    assert "\x1b" not in uncoloured
