"""`eventbus-mp worker` as a user runs it: real processes, real signals, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from tests.helpers import until

Make = Callable[..., EventBus]

PROGRAM = """
import json, os, signal
from eventbus_mp import EventBus, WorkerPool

VERSION = "one"
bus = EventBus("test", topics=["a"], memory_bytes_max=16 << 20, manager_idle_s=0.5)
pool = WorkerPool(bus, processes=2)

@bus.on("a", name="not in a service")
def nothing(event): ...

@pool.on("a", name="recorder")
def record(event):
    if event.data == "stay":
        signal.sigwait({signal.SIGUSR2})
    fd = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (json.dumps([event.id, VERSION, os.getpid()]) + "\\n").encode())
    os.close(fd)
"""


class Service:
    """A service that runs, with what it says."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.errors = folder / "stderr.txt"
        command = [sys.executable, "-m", "eventbus_mp", "worker", *arguments]
        variables = {**os.environ, "EVENTBUS_MP_RUN_DIR": str(folder / "run"), "RECORD": str(folder / "record")}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def banner(self) -> str:
        """What it prints until it is ready."""
        lines: list[str] = []
        assert self.process.stdout is not None
        while not lines or not lines[-1].startswith("ready"):
            line = self.process.stdout.readline()
            assert line, self.errors.read_text()
            lines.append(line)
        return "".join(lines)

    def pids(self) -> list[int]:
        """Its workers, as the banner says."""
        found = re.search(r"processes +\d+ by \w+: (.*)", self.banner())
        assert found is not None
        return [int(pid) for pid in found[1].split(", ")]

    def log(self) -> str:
        return self.errors.read_text()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process.stdout is not None
        code = self.process.wait(90)
        self.process.stdout.close()
        return code


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services of the program in this test's folder; what still runs at the end is stopped."""
    (tmp_path / "program.py").write_text(PROGRAM)
    services: list[Service] = []

    def start_it(*arguments: str) -> Service:
        services.append(Service(tmp_path, arguments or ("program:pool",)))
        return services[-1]

    yield start_it
    for service in services:
        if service.process.poll() is None:
            service.send(signal.SIGTERM)
            service.wait()


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[], list[list[Any]]]:
    """Reads what the handlers have written: [id, version, pid] of each event."""

    def read() -> list[list[Any]]:
        path = tmp_path / "record"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


def publish(bus: EventBus, numbers: Sequence[int], data: str = "go") -> None:
    bus.notify_many(Event(str(number), "a", data) for number in numbers)


def workers(bus: EventBus) -> set[int]:
    return {process.pid for process in bus.snapshot().processes if process.role == "worker"}


def test_it_says_what_it_runs_and_what_becomes_of_each_event(start: Start, bus: EventBus) -> None:
    service = start()
    banner = service.banner()
    assert "worker program:pool" in banner
    assert f"pid        {service.process.pid}" in banner
    assert f"bus        test, manager {bus.statistics().manager_pid}" in banner
    assert re.search(r"processes  2 by forkserver: \d+, \d+\n", banner)
    assert "handlers   recorder: a\n" in banner
    bus.notify_and_wait(Event("the one", "a", "go", transaction_id="t 7"), timeout_s=60)
    assert [subscriber.name for subscriber in bus.subscribers()] == ["recorder"]
    service.send(signal.SIGTERM)
    assert service.wait() == 0
    line = r"INFO eventbus_mp.service topic=a id='the one' transaction='t 7' worker=\d+ subscriber=recorder "
    assert re.search(line + r"outcome=completed ms=[\d.]+\n", service.log())


def test_the_banner_as_json(start: Start, bus: EventBus) -> None:
    service = start("program:pool", "--json", "--processes", "1")
    assert service.process.stdout is not None
    said = json.loads(service.process.stdout.readline())
    assert said["handlers"] == [{"name": "recorder", "patterns": ["a"], "time_limit_s": None}]
    assert set(said["worker_pids"]) == workers(bus)


def test_quiet(start: Start, bus: EventBus) -> None:
    service = start("program", "--quiet", "--processes", "1")
    until(lambda: bool(bus.subscribers()))
    bus.notify_and_wait(Event("1", "a", "go"), timeout_s=60)
    service.send(signal.SIGINT)
    assert service.process.communicate(timeout=60)[0] == ""
    assert service.process.returncode == 0
    assert service.log() == ""


def test_a_stop_under_load_loses_nothing(start: Start, bus: EventBus, recorded: Callable[[], list[list[Any]]]) -> None:
    first = start()
    first.banner()
    publish(bus, range(3_000))
    until(lambda: len(recorded()) > 100)
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert len(recorded()) < 3_000
    second = start()
    second.banner()
    bus.drain(timeout_s=60)
    second.send(signal.SIGTERM)
    assert second.wait() == 0
    assert sorted(int(event_id) for event_id, _, _ in recorded()) == list(range(3_000))  # each exactly once
    assert "died" not in first.log()


def test_a_signal_while_the_workers_start_ends_it(start: Start, bus: EventBus, tmp_path: Path) -> None:
    """An initializer may take its time, and nothing has begun that would have to be finished."""
    (tmp_path / "slow.py").write_text(
        "from program import WorkerPool, bus, record, signal\n"
        "def wait():\n"
        "    bus.register_topic('initializing')\n"
        "    signal.sigwait({signal.SIGUSR2})\n"
        "pool = WorkerPool(bus, processes=2, initializer=wait)\n"
        "pool.on('a')(record)\n"
    )
    service = start("slow:pool")
    until(lambda: bus.topic_exists("initializing"))
    service.send(signal.SIGTERM)
    assert service.wait() == 0
    assert "the workers were not ready" in service.log()


def test_the_second_signal_stops_at_once(start: Start, bus: EventBus, wait_for_end: Callable[..., None]) -> None:
    service = start()
    pids = service.pids()
    publish(bus, [1], "stay")
    until(lambda: bus.statistics().subscribers[0].sent == 1)
    service.send(signal.SIGTERM)
    until(lambda: "stopping: the workers finish" in service.log())
    while service.process.poll() is None:  # One that comes right after the first one is the first one, again.
        service.send(signal.SIGTERM)
        bus.topics()
    assert service.wait() == 128 + signal.SIGTERM
    for pid in pids:
        wait_for_end(pid)


def test_new_code_takes_effect_under_load(
    start: Start, bus: EventBus, tmp_path: Path, recorded: Callable[[], list[list[Any]]]
) -> None:
    service, sent = start(), 0
    service.banner()

    def go_on(holds: Callable[[], bool]) -> None:
        nonlocal sent
        while not holds():
            publish(bus, range(sent, sent + 50))
            sent += 50
            bus.drain(timeout_s=60)

    go_on(lambda: len(recorded()) > 200)
    changed = PROGRAM.replace('"one"', '"number two"').replace('"a", name="rec', '"a|b", name="rec')
    (tmp_path / "program.py").write_text(changed)
    service.send(signal.SIGHUP)
    go_on(lambda: "all workers are restarted" in service.log())
    until(lambda: len(workers(bus)) == 2)
    before = len(recorded())
    go_on(lambda: len(recorded()) > before + 100)
    versions = [version for _, version, _ in recorded()]
    assert versions[0] == "one"
    assert set(versions[before:]) == {"number two"}
    assert sorted(int(event_id) for event_id, _, _ in recorded()) == list(range(sent))
    assert len({pid for _, _, pid in recorded()}) <= 4
    assert [subscriber.patterns for subscriber in bus.subscribers()] == [("a|b",)]


def test_code_that_cannot_be_imported_is_not_taken(start: Start, bus: EventBus, tmp_path: Path) -> None:
    service = start()
    pids = service.pids()
    (tmp_path / "program.py").write_text("nonsense(")
    service.send(signal.SIGHUP)
    until(lambda: "not restarted, the workers go on with what they have" in service.log())
    assert "SyntaxError" in service.log()
    assert bus.notify_and_wait(Event("1", "a", "go"), timeout_s=60).completers
    assert workers(bus) == set(pids)


def test_a_worker_that_is_killed_is_replaced(
    start: Start, bus: EventBus, recorded: Callable[[], list[list[Any]]]
) -> None:
    service = start("program:pool", "--processes", "1")
    [pid] = service.pids()
    os.kill(pid, signal.SIGKILL)
    publish(bus, range(100))
    bus.drain(timeout_s=60)
    assert {worker for _, _, worker in recorded()} - {pid}
    assert f"worker {pid} died with exit code -9 and is replaced" in service.log()


def test_workers_that_cannot_start_again_end_the_service(start: Start, bus: EventBus, tmp_path: Path) -> None:
    service = start("program:pool", "--processes", "1")
    [pid] = service.pids()
    (tmp_path / "program.py").write_text("raise OSError('the database is gone')")
    os.kill(pid, signal.SIGKILL)
    assert service.wait() == 1
    assert "5 workers in a row did not become ready; the pool gives up" in service.log()
    assert "the database is gone" in service.log()


# --- programs that cannot be run ---

HEAD = "from eventbus_mp import EventBus, WorkerPool\nbus = EventBus('test', topics=['a'])\n"
ON = "pool.on('a', name='one')(print)\n"


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (HEAD, "elsewhere:pool", "there is no module 'elsewhere' in "),
        (HEAD, "broken.inner:pool", "there is no module 'broken.inner' in "),
        (HEAD, "broken.py", "'broken.py' names no pool: give package.module:pool; for this file, broken:pool"),
        ("import not_installed", "broken:pool", "ModuleNotFoundError: No module named 'not_installed'"),
        ("import sys; sys.exit('no')", "broken:pool", "SystemExit: no"),
        ("1 / 0", "broken:pool", "the import of broken raised:\nTraceback"),
        (HEAD + "tasks = WorkerPool(bus)", "broken:pool", "has no 'pool'; it has broken:tasks (bus test)"),
        (HEAD, "broken:bus", "which is not a WorkerPool; "),
        (HEAD + "def make(): return bus", "broken:make", "broken:make() returned <EventBus"),
        (HEAD + "def make(): return 1 / 0", "broken:make", "ZeroDivisionError"),
        (HEAD + "pool = WorkerPool(bus)", "broken:pool", "has no handler: decorate functions with @pool.on"),
        (HEAD + "one, two = WorkerPool(bus), WorkerPool(bus)", "broken", "broken has 2 pools, which has to be one"),
        (
            HEAD + "pool = WorkerPool(bus, 1, start_method='fork')\n" + ON + "pool.start()",
            "broken:pool",
            "runs already",
        ),
        ("import os; os._exit(3)", "broken:pool", "the process that imported it died"),
    ],
)
def test_what_is_no_pool(start: Start, tmp_path: Path, source: str, target: str, said: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    service = start(target)
    assert service.wait() == (1 if "died" in said else 2)
    assert said in service.log()


def test_a_function_may_make_the_pool(start: Start, bus: EventBus, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(PROGRAM + "\ndef make():\n    return pool\n")
    service = start("made:make", "--bus", "other", "--bus", "test")
    service.banner()
    assert bus.notify_and_wait(Event("1", "a", "go"), timeout_s=60).completers


def test_another_bus_is_refused(start: Start) -> None:
    service = start("program:pool", "--bus", "other")
    assert service.wait() == 2
    assert "is a pool of bus 'test'" in service.log()


def test_an_initializer_that_raises(start: Start, bus: EventBus, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(HEAD + "pool = WorkerPool(bus, 1, initializer=lambda: 1 / 0)\n" + ON)
    service = start("broken:pool")
    assert service.wait() == 1
    assert "the pool's initializer raised in worker" in service.log()


def test_a_directory_that_is_not_there(start: Start) -> None:
    service = start("program:pool", "--directory", "/nonexistent")
    assert service.wait() == 2
    assert "--directory '/nonexistent' is not a directory; name the one that has the module" in service.log()


@pytest.mark.parametrize("arguments", [["program:pool", "--processes", "0"], []])
def test_wrong_arguments(start: Start, arguments: list[str]) -> None:
    service = start(*arguments, "--processes", "none")
    assert service.wait() == 2
    assert "usage: eventbus-mp worker" in service.log()


def test_the_bus_of_another_run_directory(start: Start, tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    service = start("program:pool", "--run-dir", elsewhere)
    with EventBus("test", run_dir=elsewhere) as bus:
        assert f"bus        test, manager {bus.statistics().manager_pid}" in service.banner()
        service.send(signal.SIGTERM)
        assert service.wait() == 0
        bus.shutdown()


# --- reload ---


def test_reload_without_watchfiles(start: Start, tmp_path: Path) -> None:
    (tmp_path / "watchfiles.py").write_text("raise ImportError")  # It is found first, as the directory is.
    service = start("program:pool", "--reload")
    assert service.wait() == 2
    assert "pip install 'eventbus-mp[reload]', or send the service SIGHUP" in service.log()


def test_reload(start: Start, bus: EventBus, tmp_path: Path, recorded: Callable[[], list[list[Any]]]) -> None:
    pytest.importorskip("watchfiles")
    service = start("program:pool", "--reload")
    service.banner()

    def is_seen() -> bool:
        """Written until it is seen: the service says that it is ready when the watching has just begun."""
        if "program.py has changed" not in service.log():
            (tmp_path / "program.py").write_text(PROGRAM.replace('"one"', '"number two"'))
        return "all workers are restarted" in service.log()

    until(is_seen)
    publish(bus, [1])
    bus.drain(timeout_s=60)
    assert [version for _, version, _ in recorded()] == ["number two"]
