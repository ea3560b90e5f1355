"""A process that adopts orphans, as process 1 of a container without an init, collects the managers that it started."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, subprocess, sys, threading
from eventbus_mp import EventBus

def states():
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and int(pid) != own.pid:
            found[int(pid)] = state
    return found

def collectors():
    return [thread for thread in threading.enumerate() if thread.name == "eventbus_mp-adopted"]

def handle(name):
    return EventBus(name, run_dir=sys.argv[1], topics=["a"], memory_bytes_max=16 << 20, manager_idle_s=0.1)

own = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
for round in range(2):
    bus = handle("test")
    bus.topics()
    bus.shutdown()
    for thread in collectors():
        thread.join(30)
    print("after a shutdown:", list(states().values()).count("Z"))

bus, other = handle("test"), handle("other")
other.topics()
before = bus.statistics().manager_pid
assert before in states()
os.kill(before, signal.SIGKILL)
while before in states():
    assert bus.statistics().manager_pid != before
print("after a takeover:", list(states().values()).count("Z"))
assert len(collectors()) == 2, "one for each bus"
other.close()
bus.close()
for thread in collectors():
    thread.join(30)
print("after they have left:", list(states().values()).count("Z"))
print("the program's own child:", own.wait())
"""
AS_SUBREAPER = "import ctypes\nassert not ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER\n"
SAID = """\
after a shutdown: 0
after a shutdown: 0
after a takeover: 0
after they have left: 0
the program's own child: 7
"""


def run(command: list[str], program: Path, run_dir: Path) -> None:
    done = subprocess.run(
        [*command, sys.executable, str(program), str(run_dir)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", SAID)


def test_a_process_that_has_asked_for_orphans(tmp_path: Path, run_dir: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(AS_SUBREAPER + PROGRAM)
    run([], program, run_dir)


def test_process_1_of_a_pid_namespace(tmp_path: Path, run_dir: Path) -> None:
    unshare = [shutil.which("unshare") or "unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user may not make pid namespaces: {error}")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run(unshare, program, run_dir)
