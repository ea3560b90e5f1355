"""Each example of a web application runs under its real server, by the command that its docstring names."""

import ast
import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from eventbus_mp import EventBus
from tests.helpers import until
from tests.servers.load import post
from tests.servers.programs import ROOT
from tests.test_examples import environment, wait_until_nothing_is_left

WEB = ROOT / "examples" / "web"
DJANGO = WEB / "django_shop"
PAGE = ROOT / "docs" / "how-to" / "prefork.md"
TIMEOUT_S = 30.0
COMPLAINTS = re.compile(r"Traceback|ERROR|WARNING: (?!This is a development server)")


def commands_of(file: Path) -> list[str]:
    """What its docstring has after a "$"."""
    return re.findall(r"^\s*\$ (.+)$", ast.get_docstring(ast.parse(file.read_text())) or "", re.M)


FLASK, POOL_OF_FLASK, FLASK_PRELOAD = commands_of(WEB / "flask_app.py")
FASTAPI, POOL_OF_FASTAPI = commands_of(WEB / "fastapi_app.py")
RUNSERVER, DJANGO_ON_GUNICORN, POOL_OF_DJANGO = commands_of(DJANGO / "manage.py")
ADDRESS = re.compile(r"--bind 127\.0\.0\.1:(\d+)|--port (\d+)|127\.0\.0\.1:(\d+)")


def at(command: str, address: str) -> str:
    """The command with another address than that of the docstring, which somebody may have taken."""
    found = ADDRESS.search(command)
    assert found is not None, command
    return command.replace(found[0], address)


class Programs:
    """What a test has started, with one log for each."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.run_dir = tmp_path / "run"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, command: str, folder: Path, *more: str) -> Path:
        """Start a command of a docstring; its log."""
        program, *arguments = shlex.split(command)
        beside = Path(sys.executable).parent
        log = self.tmp_path / f"{len(self.started)}.log"
        with open(log, "ab") as out:
            self.started.append(
                subprocess.Popen(
                    [sys.executable if program == "python" else str(beside / program), *arguments, *more],
                    cwd=folder,
                    env={**environment(self.run_dir), "PYTHONUNBUFFERED": "1"},
                    stdout=out,
                    stderr=out,
                )
            )
        return log

    def stop(self) -> None:
        """End all in good order."""
        for process in reversed(self.started):
            process.terminate()
            process.wait(TIMEOUT_S)
        for log in self.tmp_path.glob("*.log"):
            assert not COMPLAINTS.search(log.read_text()), log.read_text()

    def kill(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    found = Programs(tmp_path)
    yield found
    found.kill()


def needs(*packages: str) -> None:
    for name in packages:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install '.[servers]' brings it")


def hosts(bus: EventBus, topic: str) -> set[int]:
    return {pid for item in bus.subscribers(topic) for pid in item.pids}


def says(log: Path, pattern: str) -> set[int]:
    """The processes that have said this."""
    return {int(pid) for pid in re.findall(pattern, log.read_text())}


def check_the_three_meanings(
    programs: Programs, name: str, server: tuple[str, Path, list[str]], pool: tuple[str, Path], address: "Path | int"
) -> None:
    """Orders go to one of three workers, changed prices to each, and reports to the pool."""
    command, folder, more = server
    log, pool_log = programs.start(command, folder, *more), programs.start(*pool)
    with EventBus(name, run_dir=str(programs.run_dir)) as bus:
        until(lambda: len(hosts(bus, "price_changed")) == 3 and hosts(bus, "report_wanted"), why_not=log.read_text)
        workers = hosts(bus, "price_changed")
        assert hosts(bus, "order_paid") == workers
        assert not hosts(bus, "report_wanted") & workers
        until(lambda: answers(address, "/orders/first/paid"), why_not=log.read_text)
        for number in range(20):
            assert post(address, f"/orders/{number}/paid") == 200
        assert post(address, "/prices/apples/changed") == 200
        assert post(address, "/reports/weekly") == 200
        # Not by `drain`, which does not wait for what is still in the pipes of the workers.
        until(lambda: len(re.findall(r"bills order \d+$", log.read_text(), re.M)) == 20, why_not=log.read_text)
        until(lambda: "writes report weekly" in pool_log.read_text(), why_not=pool_log.read_text)
        until(lambda: says(log, r"process (\d+) forgets the price of apples") == workers, why_not=log.read_text)
        assert says(log, r"process (\d+) bills order") <= workers
        assert len(says(pool_log, r"pool process (\d+) writes report weekly") & hosts(bus, "report_wanted")) == 1
    programs.stop()
    wait_until_nothing_is_left(name, programs.run_dir)


def answers(address: "Path | int", route: str) -> bool:
    with suppress(OSError):
        return post(address, route) == 200
    return False


@pytest.mark.parametrize("command", [FLASK, FLASK_PRELOAD], ids=["each worker imports it", "preload"])
def test_flask_on_gunicorn(command: str, programs: Programs) -> None:
    needs("flask", "gunicorn")
    address = programs.tmp_path / "s"
    server = at(command, f"--bind unix:{address}"), WEB, ["--no-control-socket"]
    check_the_three_meanings(programs, "example-flask", server, (POOL_OF_FLASK, WEB), address)


def test_fastapi_on_uvicorn(programs: Programs) -> None:
    needs("fastapi", "uvicorn")
    address = programs.tmp_path / "s"
    server = at(FASTAPI, f"--uds {address}"), WEB, list[str]()
    check_the_three_meanings(programs, "example-fastapi", server, (POOL_OF_FASTAPI, WEB), address)


def test_django_on_gunicorn(programs: Programs) -> None:
    needs("django", "gunicorn")
    address = programs.tmp_path / "s"
    server = at(DJANGO_ON_GUNICORN, f"--bind unix:{address}"), DJANGO, ["--no-control-socket"]
    check_the_three_meanings(programs, "example-django", server, (POOL_OF_DJANGO, DJANGO), address)


def test_django_reloads_its_handlers_and_the_parent_of_its_autoreloader_has_none(programs: Programs) -> None:
    needs("django")
    folder = programs.tmp_path / "django_shop"
    subprocess.run(["cp", "-r", str(DJANGO), str(folder)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = programs.start(at(RUNSERVER, f"127.0.0.1:{port}"), folder)
    parent = programs.started[0].pid
    with EventBus("example-django", run_dir=str(programs.run_dir)) as bus:
        until(lambda: hosts(bus, "order_paid") and answers(port, "/orders/first/paid"), why_not=log.read_text)
        first = hosts(bus, "order_paid")
        assert parent not in first
        handlers = folder / "shop" / "handlers.py"
        handlers.write_text(handlers.read_text().replace("bills order", "is new, and bills order"))
        until(lambda: is_reloaded(hosts(bus, "order_paid"), first, handlers), why_not=log.read_text)
        until(lambda: answers(port, "/orders/second/paid"), why_not=log.read_text)
        bus.drain(timeout_s=TIMEOUT_S)
        assert says(log, r"process (\d+) is new, and bills order second") == hosts(bus, "order_paid") != {parent}
        assert says(log, r"process (\d+) bills order") == first
    programs.started[0].send_signal(signal.SIGINT)  # as Ctrl-C
    programs.started[0].wait(TIMEOUT_S)
    wait_until_nothing_is_left("example-django", programs.run_dir)


def is_reloaded(now: set[int], before: set[int], changed: Path) -> bool:
    """Whether another process has the handlers; as long as none has, the file changes again: a change just after the
    server's start is not seen."""
    if now & before:
        os.utime(changed)
    return len(now) == 1 and not now & before


def test_other_commands_of_django_do_not_touch_the_bus(programs: Programs) -> None:
    needs("django")
    env = environment(programs.run_dir)
    subprocess.run([sys.executable, "manage.py", "check"], cwd=DJANGO, env=env, check=True, capture_output=True)
    assert not programs.run_dir.exists() or os.listdir(programs.run_dir) == []


def test_preload_without_the_hook_is_warned_of_in_each_worker(programs: Programs) -> None:
    """The master has the subscribers, and the workers, which publish, have none."""
    needs("flask", "gunicorn")
    address = programs.tmp_path / "s"
    log = programs.start(at(FLASK, f"--bind unix:{address}"), WEB, "--preload", "--no-control-socket")
    until(lambda: answers(address, "/orders/first/paid"), why_not=log.read_text)
    for number in range(20):
        assert post(address, f"/orders/{number}/paid") == 200
    said = [line for line in log.read_text().splitlines() if line.startswith("bus 'example-flask'")]
    assert 1 <= len(said) <= 3
    assert set(said) == {said[0]}
    assert "forked after 'flask_app.bill', 'flask_app.forget_price' had been subscribed" in said[0]
    assert "gunicorn --preload: in post_worker_init" in said[0]
    programs.stop()
    wait_until_nothing_is_left("example-flask", programs.run_dir)


def test_all_applications_can_run_at_the_same_time() -> None:
    ports = [
        {number for command in commands for number in ADDRESS.search(command).groups() if number}
        for commands in ((FLASK, FLASK_PRELOAD), (FASTAPI,), (RUNSERVER, DJANGO_ON_GUNICORN))
    ]
    assert ports == [{"8001"}, {"8002"}, {"8003"}]


def test_the_page_names_each_command() -> None:
    page = PAGE.read_text()
    for command in (FLASK, FLASK_PRELOAD, FASTAPI, RUNSERVER, DJANGO_ON_GUNICORN):
        assert command in page, f"{PAGE.name} does not say how to start the example: {command}"
