"""The commands that do something to a bus: publish, drain."""

import json
import subprocess
import sys
from pathlib import Path

from eventbus_mp import Event, EventBus
from tests.cli.shell import environment, json_output, output, run


def test_one_event(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("audit", ["a"])
    (new_id,) = output(run_dir, "publish", "test", "a", '{"total": 2.5}').splitlines()
    assert output(run_dir, "publish", "test", "a", '"paid"', "--id", "7") == "7\n"
    assert output(run_dir, "publish", "test", "a", "null", "--id", "7", "--int", "-q") == ""
    said = json_output(run_dir, "publish", "test", "a", "[1]", "--source", "shell", "--header", "trace=a=b")
    assert (said["topic"], said["published"]) == ("a", True)
    events: list[Event] = []
    while len(events) < 4:
        events += [event for _, event in inbox.events(10, 10)]
    assert [(event.id, event.data) for event in events] == [
        (new_id, {"total": 2.5}),
        ("7", "paid"),
        (7, None),
        (said["id"], [1]),
    ]
    assert (events[3].source, events[3].headers) == ("shell", {"trace": "a=b"})


def test_a_stream_of_lines(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("audit", ["a"])
    done = run(run_dir, "publish", "test", "a", "-", text='1\n\n"two"\n{"three": 3}\n')
    assert (done.returncode, done.stderr) == (0, "")
    ids = done.stdout.splitlines()
    shadows = inbox.get_many(10, 10)
    while len(shadows) < 3:
        shadows += inbox.get_many(10, 10)
    assert [shadow.id for shadow in shadows] == ids
    assert [bus.fetch_event_data(shadow) for shadow in shadows] == [1, "two", {"three": 3}]


def test_a_line_is_published_as_soon_as_it_comes(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("audit", ["a"])
    command = [sys.executable, "-m", "eventbus_mp", "publish", "test", "a", "-"]
    with subprocess.Popen(
        command, env=environment(run_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(2):
            print(number, file=process.stdin, flush=True)
            shadow = inbox.get(20)
            assert shadow is not None
            assert (process.stdout.readline().strip(), bus.fetch_event_data(shadow)) == (shadow.id, number)
            inbox.complete(shadow)
    assert process.returncode == 0


def test_what_is_no_json(bus: EventBus, run_dir: Path) -> None:
    bus.inbox("audit", ["a"])
    done = run(run_dir, "publish", "test", "a", "-", text="1\npaid\n2\n")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "1 event before it was published" in done.stderr
    assert "line 2 of standard input is not JSON" in done.stderr
    done = run(run_dir, "publish", "test", "a", "paid")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a text needs its quotes" in done.stderr
    for arguments in (["-", "--id", "7"], ["1", "--header", "trace"], ["1", "--id", "x", "--int"]):
        assert run(run_dir, "publish", "test", "a", *arguments, text="").returncode == 2


def test_what_nobody_gets(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    done = run(run_dir, "publish", "test", "a", "1")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "eventbus-mp: nobody is subscribed to topic 'a': 1 event dropped\n"
    done = run(run_dir, "publish", "test", "aa", "1", "--json")
    assert (done.returncode, done.stdout) == (4, "")
    assert "topic 'aa' is not registered" in done.stderr


def test_waiting_until_it_is_settled(bus: EventBus, run_dir: Path) -> None:
    bus.on("a")(lambda event: None)
    bus.inbox("never", ["b"])
    output(run_dir, "publish", "test", "a", "1", "--wait", "20")
    done = run(run_dir, "publish", "test", "b", "1", "--wait", "0.01", "--id", "x")
    assert done.returncode == 5
    assert "event 'x' of topic 'b' is not settled after 0.01 s" in done.stderr


def test_drain(bus: EventBus, run_dir: Path) -> None:
    inbox = bus.inbox("audit", ["a"])
    shadow = bus.notify(Event("1", "a", 1))
    assert output(run_dir, "drain", "test", "b") == ""
    done = run(run_dir, "drain", "test", "--timeout", "0.01")
    assert (done.returncode, done.stdout) == (5, "")
    assert "audit has" in done.stderr
    bus.mark_as_completed(inbox, shadow)
    done = run(run_dir, "drain", "test", "--timeout", "20", "--json")
    assert json.loads(done.stdout) == {"bus": "test", "pattern": "", "drained": True}
    assert run(run_dir, "drain", "test", "--timeout", "soon").returncode == 2
