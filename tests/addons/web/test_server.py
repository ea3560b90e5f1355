"""`eventbus-mp web`: a process of its own, its addresses, its end."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus, EventBusError, UsageError
from eventbus_mp.addons.journal import open_store
from eventbus_mp.addons.web.server import is_loopback, listening
from eventbus_mp.cli import main
from tests.addons.journal.rows import rows
from tests.addons.web.serving import PATIENCE_S, Events, ask
from tests.cli.shell import environment

Start = Callable[..., "Web"]


class Web:
    """A running `eventbus-mp web test`."""

    def __init__(self, run_dir: Path, *options: object) -> None:
        command = [sys.executable, "-m", "eventbus_mp", "web", "test", "--run-dir", str(run_dir), *map(str, options)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(run_dir)
        )
        self.address = self.process.stdout.readline().strip().removeprefix("test: ")
        self.port = int(self.address.rstrip("/").rpartition(":")[2]) if self.address.startswith("http") else 0

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Its exit code, and what it said on standard error."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said


@pytest.fixture
def start(run_dir: Path) -> Iterator[Start]:
    started: list[Web] = []

    def make(*options: object) -> Web:
        started.append(Web(run_dir, *options))
        return started[-1]

    yield make
    for web in started:
        if web.process.poll() is None:
            web.end(signal.SIGKILL)
        web.process.stdout.close()
        web.process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_with_open_streams(bus: EventBus, start: Start, number: int) -> None:
    bus.inbox("audit", ["a"])
    bus.notify(Event("one", "a", 1))
    web = start("--port", 0)
    assert web.address == f"http://127.0.0.1:{web.port}/"
    viewers = [Events(web.port) for _ in range(3)]
    for viewer in viewers:
        assert viewer.next()[1]["snapshot"]["events"]["unsettled"] == 1
    assert web.end(number) == (0, "")
    for viewer in viewers:
        viewer.wait_for_end()
        viewer.close()


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"GET /topics HTT",
        b"GET /topics HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /api/actions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["nothing", "half a line", "half of the headers", "half a body"],
)
def test_who_never_ends_a_request_holds_up_nobody(bus: EventBus, start: Start, half: bytes) -> None:
    bus.topics()
    web = start("--port", 0, "--allow-actions")
    with socket.create_connection(("127.0.0.1", web.port)) as connection:
        connection.sendall(half)
        assert ask(web.port, "/topics").status == 200
        assert web.end() == (0, "")


class Amount:
    """Only this process has it."""

    def __init__(self, cents: int) -> None:
        self.cents = cents


EventBus.register_type(Amount, lambda amount: amount.cents, Amount)


def test_with_all_options(make_bus: Callable[..., EventBus], start: Start, tmp_path: Path) -> None:
    bus = make_bus(topics=["a"])
    bus.inbox("audit", ["a"])
    bus.notify(Event("one", "a", Amount(12)))
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    web = start("--port", 0, "--token", f"@{secret}", "--allow-host", "bus.example", "--allow-actions")
    assert ask(web.port, "/topics", host="bus.example").status == 401
    assert ask(web.port, "/topics", host="evil.example", Authorization="Bearer s3cret").status == 421
    ours = {"host": "bus.example", "Authorization": "Bearer s3cret"}
    # A type that only the programs of the bus have is shown all the same.
    event = ask(web.port, "/topics/a/events/one", **ours).json["event"]
    assert (event["error"], "12" in str(event["data"])) == (None, True)
    actions = ask(web.port, "/api/bus", **ours).json["actions"]
    body = b'{"action": "skip", "topic": "a", "id": "one", "subscriber": "audit"}'
    headers = {"Content_Type": "application/json", actions["header"]: actions["token"]}
    assert ask(web.port, "/api/actions", "POST", body=body, **headers, **ours).json == {"done": 1}
    code, said = web.end()
    assert code == 0
    assert "127.0.0.1: skip event 'one' of topic 'a' for 'audit' (1)\n" in said
    assert "s3cret" not in said
    bus.drain(timeout_s=10)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["web", "test", "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 cannot be listened on: Address already in use; --port names" in said


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--host", "0.0.0.0"], 2, "others can reach this address; give a --token"),
        (["--host", "::"], 2, "others can reach this address"),
        (["--host", "nowhere.invalid", "--token", "x"], 1, "nowhere.invalid cannot be listened on"),
        (["--port", "70000"], 2, "a number from 0 to 65535"),
        (["--token", "@/nowhere"], 2, "the file cannot be read"),
        (["--token", ""], 2, "it is empty"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str) -> None:
    assert main(["web", "test", *options]) == code
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True)


class UnixConnection(http.client.HTTPConnection):
    """To a socket of the file system."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.host)


def test_a_socket_of_the_file_system(
    bus: EventBus, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bus.topics()
    path = tmp_path / "page.sock"
    killed = start("--uds", path)
    assert (killed.address, path.stat().st_mode & 0o777) == (f"unix:{path}", 0o600)
    assert main(["web", "test", "--uds", str(path)]) == 1
    assert "another server listens there" in capsys.readouterr().err
    killed.end(signal.SIGKILL)
    assert path.exists()
    web = start("--uds", path)  # It takes the place of what is left.
    connection = UnixConnection(str(path))
    connection.request("GET", "/healthz", headers={"Host": "localhost"})
    assert connection.getresponse().read() == b'{"ok":true}'
    connection.close()
    assert web.end() == (0, "")
    assert not path.exists()


def test_a_file_that_is_not_a_socket_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.sock"
    path.write_text("mine")
    assert main(["web", "test", "--uds", str(path)]) == 2
    assert path.read_text() == "mine"
    assert "which is not a socket" in capsys.readouterr().err


def test_the_file_of_another_server_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    with listening("", 0, str(path), is_guarded=False):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    assert path.exists()
    other.close()


def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    with (
        pytest.raises(EventBusError, match="cannot be listened on"),
        listening("", 0, str(tmp_path / ("x" * 200)), is_guarded=False),
    ):
        pass
    assert os.umask(before) == before


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_what_others_may_reach(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="give a --token"), listening(host, 0, None, is_guarded=False):
        pass


def test_without_its_packages_it_says_what_to_install(run_dir: Path) -> None:
    code = "import sys; sys.modules['starlette'] = None; from eventbus_mp.cli import main; sys.exit(main(['web', 'x']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(run_dir),
    )
    assert done.returncode == 2
    assert "needs the packages starlette and uvicorn" in done.stderr
    assert done.stderr.endswith("type: pip install 'eventbus-mp[web]'\n")


def test_with_a_journal(bus: EventBus, start: Start, tmp_path: Path) -> None:
    bus.topics()
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    web = start("--journal", url, "--port", 0)
    assert "there is no journal" in ask(web.port, "/api/journal").json["journal"]["error"]
    with open_store(url, writes=True) as store:
        store.take_lock()
        store.append(rows(3))
    assert ask(web.port, "/api/journal/events?limit=1").json["events"][0]["id"] == "2"
    assert web.end() == (0, "")


def test_with_the_default_journal(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    web = start("--journal", "--port", 0)
    assert f"{tmp_path}/state/eventbus-mp/test.db" in ask(web.port, "/api/journal").json["journal"]["error"]
    assert web.end() == (0, "")


def test_a_url_that_is_none_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "test", "--run-dir", str(run_dir), "--journal", "shop.db"]) == 2
    assert "is not a URL of a journal" in capsys.readouterr().err
