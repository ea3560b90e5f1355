"""examples/shop, started by its one command: orders over HTTP, and kill -9 in the middle of them."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import EventBus
from eventbus_mp.addons.journal import Selection, StoreError, open_store
from tests.helpers import until
from tests.test_examples import ROOT, environment, leftovers, wait_until_nothing_is_left

SHOP = ROOT / "examples" / "shop"
PAGE = (SHOP / "README.md").read_text()
BUS = "example-shop"
ORDERS = 240
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("flask", "gunicorn"))), reason="pip install '.[servers]' brings Flask and gunicorn"
)


class Shop:
    """The shop, with a folder, a run directory and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.folder = folder / "data"
        self.port, self.page_port = _free_ports()
        self.environment = {
            **environment(self.run_dir),
            "SHOP_FOLDER": str(self.folder),
            "SHOP_PORT": str(self.port),
            "SHOP_PAGE_PORT": str(self.page_port),
        }
        self.journal = f"sqlite:///{self.folder / 'events.db'}"
        self.said: list[str] = []
        """The lines of the terminal."""
        self._is_open = threading.Event()

    def __enter__(self) -> Shop:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.shop"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        assert self._is_open.wait(TIMEOUT_S), self.text()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)  # If it has ended, that does nothing.
        self.process.wait(TIMEOUT_S)
        self._listener.join(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("Ctrl-C ends the shop"):
                self._is_open.set()

    def text(self) -> str:
        return "".join(self.said)

    def program(self, *command: str) -> subprocess.Popen[str]:
        """Start another program in the environment of the shop."""
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> str:
        """What another program says, which must end well."""
        process = self.program(*command)
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said
        return said

    def events(self) -> Counter[str]:
        """How many of each topic the journal has."""
        with open_store(self.journal) as store:
            return Counter(store.count_per_topic(Selection()))

    def get(self, port: int, path: str) -> str:
        status, text = _request(port, "GET", path)
        assert status == 200, text
        return text

    def history(self, order: str) -> list[str]:
        """The topics of the order's events that the journal has."""
        status, text = _request(self.port, "GET", f"/orders/{order}")
        assert status in (200, 404), text
        found: list[str] = json.loads(text).get("history", [])
        return found

    def put(self, order: str, card: str) -> None:
        body = json.dumps({"cents": 250, "card": card})
        assert _request(self.port, "PUT", f"/orders/{order}", body)[0] == 202

    def spans(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "traces.jsonl").read_text().splitlines()]


def _request(port: int, method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """The status and the text of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return [first.getsockname()[1], second.getsockname()[1]]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop(tmp_path) as shop:
        yield shop
    wait_until_nothing_is_left(BUS, shop.run_dir)


def test_kills_lose_no_order_and_ctrl_c_leaves_nothing(shop: Shop) -> None:
    load = shop.program("examples.shop.load", str(ORDERS))
    killed = _kill_one_of_each(shop, load)
    said, _ = load.communicate(timeout=TIMEOUT_S)
    assert load.returncode == 0, said + shop.text()
    refused = ORDERS // 20
    assert f"{ORDERS} order_placed" in said
    assert "0 are missing, 0 are too many" in said
    paid = ORDERS - refused
    assert f"{paid} charges by the bank, {refused} dead letters" in said
    assert shop.events() == {"order_placed": ORDERS, "order_paid": paid, "order_packed": paid}
    _check_the_page(shop, paid, killed["manager"])
    _check_the_traces(shop)
    shop.process.send_signal(signal.SIGINT)
    assert shop.process.wait(TIMEOUT_S) == 0, shop.text()
    assert shop.said[-1] == "the shop has ended\n"
    assert leftovers(BUS, shop.run_dir) == []  # already


def _kill_one_of_each(shop: Shop, load: subprocess.Popen[str]) -> dict[str, int | None]:
    """Kill a web worker, a worker of the pool and the manager, each when a quarter more of the orders is packed."""
    killed: dict[str, int | None] = {}
    with EventBus.attach(BUS, run_dir=str(shop.run_dir)) as observer:
        for quarter, role in enumerate(("web", "worker", "manager"), 1):
            until(lambda: _packed(shop) >= quarter * ORDERS // 4, TIMEOUT_S, shop.text)  # noqa: B023
            assert load.poll() is None, "the orders were done before all was killed"
            killed[role] = until(lambda: _pid_of(role, observer), TIMEOUT_S, shop.text)  # noqa: B023
            os.kill(killed[role], signal.SIGKILL)
    return killed


def _packed(shop: Shop) -> int:
    try:
        return shop.events()["order_packed"]
    except StoreError:  # the first event has not come
        return 0


def _pid_of(role: str, observer: EventBus) -> int | None:
    processes = observer.snapshot().processes
    if role == "web":
        return next((one.pid for one in processes if "gunicorn" in one.command), None)
    return next((one.pid for one in processes if one.role == role), None)


def _check_the_page(shop: Shop, paid: int, killed_manager: int | None) -> None:
    bus = json.loads(shop.get(shop.page_port, "/api/bus"))
    assert bus["manager"]["takeovers"] == 1
    assert bus["manager"]["pid"] != killed_manager
    metrics = shop.get(shop.page_port, "/metrics")
    assert f'eventbus_up{{bus="{BUS}"}} 1.0' in metrics
    labels = f'bus="{BUS}",host="",outcome="completed",subscriber="billing"'
    [completed] = re.findall(rf"^eventbus_deliveries_total{{{labels}}} (\d+)", metrics, re.M)
    assert int(completed) >= paid
    journal = json.loads(shop.get(shop.page_port, "/api/journal/events?topic=order_packed&limit=500"))
    assert len(journal["events"]) == paid
    stored = f'eventbus_journal_stored_total{{bus="{BUS}",journal="journal"}} {ORDERS + 2 * paid}.0'
    until(lambda: stored in shop.get(shop.page_port, "/metrics"), TIMEOUT_S)  # noted now and then


def _check_the_traces(shop: Shop) -> None:
    """An order that nothing was killed under has one trace from the request to the parcel."""
    shop.put("traced", "slow")
    until(lambda: "order_packed" in shop.history("traced"), TIMEOUT_S, shop.text)
    until(lambda: any(each["name"] == "process order_paid" and each["order"] == "traced" for each in shop.spans()))
    tree = shop.run("examples.shop.trace", "traced").splitlines()
    assert [re.sub(r" {2,}[\d.]+ ms.*", "", line) for line in tree] == [
        "PUT /orders",
        "  publish order_placed",
        "    process order_placed",
        "      ask the bank",
        "    process order_placed",
        "      ask the bank",
        "      publish order_paid",
        "        process order_paid",
        "          publish order_packed",
    ]
    assert [line.rpartition(", ")[2] for line in tree if "process order_placed" in line] == ["retried", "completed"]


def test_refused_orders_are_sent_again_when_the_cause_is_gone(shop: Shop) -> None:
    shop.put("17", "blocked")
    letters = ("eventbus_mp", "dead-letters")
    until(lambda: "CardRefused: card blocked is blocked" in shop.run(*letters, "ls", BUS), TIMEOUT_S, shop.text)
    (shop.folder / "unblocked").touch()
    assert shop.run(*letters, "redeliver", BUS, "--all") == "1 dead letter sent again\n"
    until(lambda: "order_packed" in shop.history("17"), TIMEOUT_S, shop.text)
    assert shop.history("17") == ["order_placed", "order_paid", "order_packed"]
    assert shop.history("18") == []


def test_it_says_which_program_cannot_start_and_ends(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", shop.page_port))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "examples.shop"],
            cwd=ROOT,
            env=shop.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 1
    assert f"port {shop.page_port} of 127.0.0.1 cannot be listened on" in done.stdout
    assert done.stderr == "page has ended with status 1\n"
    wait_until_nothing_is_left(BUS, shop.run_dir)


def test_the_page_names_each_file_and_each_command() -> None:
    assert [path.name for path in SHOP.glob("*.py") if f"]({path.name})" not in PAGE] == ["__init__.py"]
    for command in ("python -m examples.shop", "python -m examples.shop.load 200", "python -m examples.shop.trace 2"):
        assert re.search(rf"^(\$ )?{re.escape(command)}$", PAGE, re.M), command
    assert shutil.which("curl") is None or "curl -X PUT" in PAGE
