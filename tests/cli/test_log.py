"""`eventbus-mp log`: a line for each event, nothing held back, nothing left behind."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from tests.cli.shell import run, started


def await_subscriber(bus: EventBus, process: "subprocess.Popen[str]") -> None:
    while all(item.name != "eventbus-mp log" for item in bus.subscribers()):
        assert process.poll() is None, process.communicate()


def end(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> str:
    process.send_signal(number)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, ""), complaints
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lines(bus: EventBus, run_dir: Path, number: int) -> None:
    bus.topics()
    with started(run_dir, "log", "test", "a", "--redact", "card", EVENTBUS_MP_LOGGER_ENABLED="no") as process:
        await_subscriber(bus, process)
        bus.notify_many([Event("1\n2", "a", {"card": 1, "x": "\x1b"}, source="s"), Event("3", "b", None)])
        bus.drain(timeout_s=20)
        said = end(process, number)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO "
        r'a "1\\n2" source=s data=\{"card": "\[redacted\]", "x": "\\u001b"\}\n',
        said,
    )
    assert bus.subscribers() == []


def test_json_and_light(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    with started(run_dir, "log", "test", "--json", "--light", "--level", "warning", "--sample", "1") as process:
        await_subscriber(bus, process)
        bus.notify_many([Event("1", "a", 1), Event(2, "b", 2)])
        bus.drain(timeout_s=20)
        found = [json.loads(line) for line in end(process).splitlines()]
    assert [(item["level"], item["topic"], item["event_id"]) for item in found] == [
        ("WARNING", "a", "1"),
        ("WARNING", "b", 2),
    ]


def test_nobody_reads_it_any_more(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    with started(run_dir, "log", "test") as process:
        await_subscriber(bus, process)
        assert process.stdout is not None
        process.stdout.close()
        bus.notify(Event("1", "a", 1))
        process.wait(60)
    bus.drain(timeout_s=20)
    assert bus.subscribers() == []


def test_the_bus_ends(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    with started(run_dir, "log", "test") as process:
        await_subscriber(bus, process)
        bus.shutdown()
        _, complaints = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "bus 'test'" in complaints


def test_bad_arguments(run_dir: Path) -> None:
    assert "is not a share from 0 to 1" in run(run_dir, "log", "test", "--sample", "2").stderr
    assert run(run_dir, "log", "none").returncode == 3
