"""What README and docs show of `explain`, `doctor` and `top` is what they print.

EVENTBUS_REWRITE=1 captures all of it anew, from a run of the two programs below: read the difference.
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventbus_mp import EventBus
from eventbus_mp.cli._rates import TABLES
from tests.cli.shell import environment, output, run

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference" / "command-line.md"
PICTURE = ROOT / "docs" / "top.svg"
EXPLAIN = "explain shop order_paid 4711"
DOCTOR = "doctor"
TIMEOUT_S = 60.0
ROWS, COLUMNS = 30, 108

SHOP = """
import sys, threading
from eventbus_mp import Event, EventBus

bus = EventBus("shop", topics=["order_paid", "order_shipped"])

@bus.on("order_.*", name="audit")
def audit(event):
    pass

for number in range(4711, 4716):
    bus.notify(Event(str(number), "order_paid", {"total": 12}))
bus.notify_and_wait(Event("0", "order_shipped", 0), timeout_s=60)
print("ready", flush=True)
idle = threading.Event()
while not idle.wait(0.002):
    bus.notify(Event(str(number), "order_shipped", number))
    number += 1
"""
BILLING = """
import socket, threading
from eventbus_mp import EventBus

bus = EventBus("shop", topics=["order_paid", "order_shipped"])
provider, other_end = socket.socketpair()

@bus.on("order_paid", name="billing")
def bill(event):
    charge(event.data["total"])

def charge(total):
    provider.sendall(b"charge %d" % total)
    provider.recv(100)  # it never answers

print("ready", flush=True)
other_end.recv(100)
print("charging", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    """The folder of two programs that share the bus `shop`: one waits for an answer that never comes."""
    folder = tmp_path
    (folder / "billing.py").write_text(BILLING)
    (folder / "shop.py").write_text(SHOP)
    with _running(folder, "billing.py") as billing:
        assert next(billing) == "ready\n"
        with _running(folder, "shop.py") as shop:
            assert (next(shop), next(billing)) == ("ready\n", "charging\n")
            yield folder
    EventBus.attach("shop", run_dir=str(folder / "run")).shutdown()


@contextmanager
def _running(folder: Path, name: str) -> Iterator[Iterator[str]]:
    """A program while it runs: what it prints."""
    variables = {**environment(folder / "run"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, name]
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield program.stdout
        finally:
            program.kill()


def shown(folder: Path, text: str) -> str:
    """With the paths that a user might have."""
    paths = {
        sys.executable: "python",
        str(ROOT / "eventbus_mp"): "/srv/shop/venv/eventbus_mp",
        sysconfig.get_paths()["stdlib"]: "/usr/lib/python3",
        str(folder / "run"): "/dev/shm/ebmp-1000",
        str(folder): "/srv/shop",
    }
    for path, short in paths.items():
        text = text.replace(path, short)
    return text


def plain(text: str) -> list[str]:
    """What stays the same from run to run, and from one version of our own code to the next."""
    text = re.sub(r"0x[0-9a-f]+|\d[\d.,]*( (us|ms|s|min|h|[KMG]iB|B)\b)?", "N", text)
    return [line for line in text.splitlines() if not re.search(r'File "(/usr/lib|\S*/eventbus_mp/)', line)]


def block(page: Path, command: str) -> str:
    """What a page says that a command prints."""
    found = re.search(rf"^```\n\$ eventbus-mp {re.escape(command)}\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert found is not None, f"{page.name} does not show eventbus-mp {command}"
    return found[1]


def rewrite(page: Path, command: str, text: str) -> None:
    """If that was asked for, have the page show this."""
    if os.environ.get("EVENTBUS_REWRITE"):
        fence = f"```\n$ eventbus-mp {command}\n"
        page.write_text(page.read_text().replace(fence + block(page, command), fence + text))


def test_explain_and_doctor(shop: Path) -> None:
    check_explain(shop)
    check_doctor(shop)


def check_explain(shop: Path) -> None:
    printed = shown(shop, output(shop / "run", *EXPLAIN.split()))
    rewrite(REFERENCE, EXPLAIN, printed)
    head, *_ = printed.partition(' File "/srv/shop/venv')
    rewrite(README, EXPLAIN, f"{head.rstrip()}\n      ...\n")
    assert plain(block(REFERENCE, EXPLAIN)) == plain(printed)
    *lines, left_out = plain(block(README, EXPLAIN))
    assert (lines, left_out) == (plain(printed)[: len(lines)], "      ...")
    assert len(lines) > 4


def check_doctor(shop: Path) -> None:
    dead = shop / "run" / "report"  # as a bus that was killed leaves it
    dead.mkdir()
    (dead / "socket").symlink_to(shop / "gone")
    printed = shown(shop, run(shop / "run", DOCTOR).stdout)
    shutil.rmtree(dead)
    rewrite(REFERENCE, DOCTOR, printed)
    line = re.compile(r"(ok|warning|problem) {2,}(\S.*?): \S.*|\s+-> \S.*")
    subjects = []
    for text in (block(REFERENCE, DOCTOR), printed):
        matched = [line.fullmatch(each) for each in text.splitlines()]
        assert None not in matched
        subjects.append([match[2] for match in matched if match is not None and match[2] is not None])
    assert subjects[0] == subjects[1]


def test_top(request: pytest.FixtureRequest) -> None:
    if os.environ.get("EVENTBUS_REWRITE"):
        PICTURE.write_text(_picture(request.getfixturevalue("shop")))
    text = re.sub(r"<[^>]+>", "", PICTURE.read_text()).replace("&#160;", " ")
    for head in (head for table in TABLES for head in table.heads):
        assert head in text, "eventbus-mp top has changed: capture it anew"
    assert "docs/top.svg" in README.read_text()
    assert "../top.svg" in REFERENCE.read_text()


def _picture(folder: Path) -> str:
    """What `top` shows on a terminal, after some looks, by textual's own export."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    variables = {
        "TEXTUAL_SCREENSHOT": "4",
        "TEXTUAL_SCREENSHOT_LOCATION": str(folder),
        "TEXTUAL_SCREENSHOT_FILENAME": "top.svg",
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
    }
    command = [sys.executable, "-m", "eventbus_mp", "top", "shop"]
    top = subprocess.Popen(
        command, env=environment(folder / "run", **variables), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        said = b"something"
        while said:
            said = os.read(ours, 1 << 16)
    except OSError:  # It has ended.
        assert top.wait(TIMEOUT_S) == 0
    finally:
        top.kill()
        os.close(ours)
    # The picture asks for a font on the network, which a page should not.
    picture = re.sub(r"\s*@font-face \{.*?\}", "", (folder / "top.svg").read_text(), flags=re.S)
    lines = [line.replace(sys.executable, "/srv/shop/bin/python") for line in picture.splitlines(keepends=True)]
    # A text of another length would be stretched.
    return "".join(re.sub(r'textLength="[^"]*" (?=[^<]*/srv/)', "", line) for line in lines)
