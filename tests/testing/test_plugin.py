"""The fixtures of the pytest plugin, in a test run of their own, over a program that subscribes when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = """
from eventbus_mp import Event, EventBus

bus = EventBus("shop", topics=["order_paid"])
billed = []

@bus.on("order_paid", name="bill")
def bill(event):
    billed.append(event.id)

def pay(number):
    bus.notify(Event(number, "order_paid", {"total": 12}))
"""

IN_PROCESS = """
import shop

def test_it_is_billed(bus):
    shop.pay(1)
    bus.deliver_all()
    assert shop.billed == [1]
    bus.assert_notified("order_paid", data={"total": 12}, times=1)

def test_it_begins_anew(bus):
    assert bus.notified == []
    shop.pay(2)
    bus.deliver_all()
    assert shop.billed == [1, 2]
"""

PROCESSES = """
import os, subprocess, sys
import pytest, shop
from eventbus_mp import EventBus
from eventbus_mp.testing import TestBus

@pytest.mark.eventbus(memory_bytes_max=32 << 20)
def test_another_process_publishes(bus_processes):
    assert not isinstance(bus_processes, TestBus)
    assert bus_processes.snapshot().manager.pid != os.getpid()
    assert bus_processes.snapshot().memory.bytes_max == 32 << 20
    code = "from eventbus_mp import *; EventBus('shop').notify(Event(3, 'order_paid', None))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    bus_processes.drain(timeout_s=20)
    assert shop.billed == [3]
"""

MARKED = """
import pytest
from eventbus_mp import Event, EventBus

@pytest.mark.eventbus("stock", topics=["a"])
class TestStock:
    def test_its_class_is_marked(self, bus):
        assert (bus.name, bus.topics()) == ("stock", ["a"])
        EventBus("stock").notify(Event(1, "a", None))
        bus.assert_notified("a", times=1)

def test_nothing_is_marked(bus):
    assert (bus.name, bus.topics()) == ("test", [])
"""


def run(directory: Path, tests: str, ini: str = "") -> subprocess.CompletedProcess[str]:
    """A run of pytest over this file of tests, with the program beside it."""
    (directory / "shop.py").write_text(SHOP)
    (directory / "test_it.py").write_text(tests)
    (directory / "pytest.ini").write_text(f"[pytest]\npythonpath = .\n{ini}\n")
    paths = os.pathsep.join([str(directory), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "EVENTBUS_MP_RUN_DIR": str(directory / "run")}
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "eventbus_mp.testing.plugin", "test_it.py"]
    plugins = {**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # It is named, so that it is this checkout's.
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=directory,
        env=plugins,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("tests", "count"), [(IN_PROCESS, 2), (PROCESSES, 1)], ids=["in this process", "with processes"]
)
def test_a_program_that_subscribes_when_it_is_imported(tmp_path: Path, tests: str, count: int) -> None:
    ran = run(tmp_path, tests, "eventbus_mp_names = shop")
    assert f"{count} passed" in ran.stdout, ran.stdout + ran.stderr
    assert not list(tmp_path.glob("run/*")), "a manager was started"


def test_a_marked_class(tmp_path: Path) -> None:
    ran = run(tmp_path, MARKED)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.parametrize("marker", ["'shop', 'stock'", "'shop', name='stock'"])
def test_a_marker_with_two_names(tmp_path: Path, marker: str) -> None:
    tests = f"import pytest\n\n@pytest.mark.eventbus({marker})\ndef test(bus): ...\n"
    ran = run(tmp_path, tests)
    assert "UsageError: eventbus('shop'" in ran.stdout, ran.stdout + ran.stderr


def test_a_name_in_the_ini_file_that_no_bus_can_have(tmp_path: Path) -> None:
    ran = run(tmp_path, MARKED, "eventbus_mp_names = no/name")
    assert "ERROR: eventbus_mp_names: bus name 'no/name'" in ran.stderr, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_test_may_end_its_bus_itself(tmp_path: Path) -> None:
    tests = "\n\n".join(f"def test_{end}(bus_processes):\n    bus_processes.{end}()" for end in ("close", "shutdown"))
    ran = run(tmp_path, tests)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "error" not in ran.stdout, ran.stdout
