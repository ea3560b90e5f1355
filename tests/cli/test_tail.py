"""`eventbus-mp tail`: it shows what goes by, holds nothing back and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from tests.cli.shell import run, started


@contextlib.contextmanager
def tailing(bus: EventBus, *arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """A tail that has subscribed."""
    bus.topics()
    assert bus.config.run_dir is not None
    with started(Path(bus.config.run_dir), "tail", bus.name, *arguments) as process:
        await_subscriber(bus, process)
        yield process


def await_subscriber(bus: EventBus, process: "subprocess.Popen[str]", there: bool = True) -> None:
    while any(item.name == "eventbus-mp tail" for item in bus.subscribers()) != there:
        assert process.poll() is None or not there, process.communicate()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def end(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> str:
    """End it as Ctrl-C does; what it has printed since."""
    process.send_signal(number)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, ""), complaints
    return said


def test_events_as_they_are_published(bus: EventBus, run_dir: Path) -> None:
    with tailing(bus, "a") as process:
        bus.notify_many([Event("one", "a", {"total": 2.5}), Event(2, "a", "two\x1b[31m"), Event("3", "b", None)])
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6}  a  'one'  \{'total': 2\.5\}\n", lines[0])
        assert lines[1].endswith("  a  2  'two\\x1b[31m'\n")
        bus.drain()  # They are settled although it still runs.
        assert end(process) == ""
    assert bus.subscribers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_leaves_by_other_signals_as_well(number: int, bus: EventBus, run_dir: Path) -> None:
    with tailing(bus) as process:
        assert end(process, number) == ""
    assert bus.subscribers() == []


def test_json_and_a_count(bus: EventBus, run_dir: Path) -> None:
    with tailing(bus, "b", "c", "--json", "--count", 2) as process:
        bus.register_topic("c")  # later than it began
        bus.notify_many([Event("1", "a", 1), Event("2", "b", [2]), Event(3, "c", {"x": 3}), Event("4", "b", 4)])
        said, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert [json.loads(line) for line in said.splitlines()] == [
        {"topic": "b", "id": "2", "data": [2]},
        {"topic": "c", "id": 3, "data": {"x": 3}},
    ]


def test_a_screen_that_stands_still_holds_nothing_back(bus: EventBus, run_dir: Path) -> None:
    """Nobody reads what it prints, and it goes on completing events: of 16 MiB of memory, far more goes by."""
    with tailing(bus, "a") as process:
        for number in range(60):
            bus.notify_many(Event(f"{number}-{index}", "a", "x" * 2_000) for index in range(500))
            bus.drain(timeout_s=60)
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(said.splitlines()) < 30_000
    assert re.fullmatch(r"eventbus-mp: [\d,]+ events not shown: they came faster than this prints\n", complaints)


def test_a_process_that_is_stopped_is_not_subscribed(bus: EventBus, run_dir: Path) -> None:
    """As by Ctrl-Z, and `fg` afterwards."""
    with tailing(bus, "a") as process:
        process.send_signal(signal.SIGTSTP)
        await_subscriber(bus, process, there=False)
        while state_of(process.pid) != "T":
            bus.topics()
        process.send_signal(signal.SIGCONT)
        await_subscriber(bus, process)
        bus.notify(Event("one", "a", 1))
        assert process.stdout is not None
        assert process.stdout.readline().endswith("  a  'one'  1\n")
        end(process)


def test_a_reader_that_leaves(bus: EventBus, run_dir: Path) -> None:
    with tailing(bus, "a") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 128 + signal.SIGPIPE
    assert bus.subscribers() == []


def test_the_end_of_the_bus(bus: EventBus, run_dir: Path) -> None:
    with tailing(bus) as process:
        assert run(run_dir, "stop", "test").returncode == 0
        said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")
    assert complaints.startswith("eventbus-mp: ")
    assert "Traceback" not in complaints
    assert not (run_dir / "test").exists()  # It has started no other one.


def test_what_waited_for_it_is_no_dead_letter(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    """Killed with a queue: nobody could ever have these sent again."""
    bus = make_bus(topics=["a", "dead"], dead_letter_topic="dead")
    letters = bus.inbox("letters", ["dead"])
    with tailing(bus, "a") as process:
        os.kill(process.pid, signal.SIGSTOP)
        bus.notify_many(Event(number, "a", number) for number in range(5_000))
        process.kill()
    await_subscriber(bus, process, there=False)
    bus.drain(timeout_s=60)
    assert letters.get(0) is None
