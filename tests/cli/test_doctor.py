"""`eventbus-mp doctor`: each finding, with what to do about it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus_mp import BusFull, Event, EventBus
from eventbus_mp.cli._buses import bus_findings
from eventbus_mp.cli._finding import Finding
from eventbus_mp.cli._machine import cgroup_memory, open_files, remove_ipc, shared_memory
from eventbus_mp.cli._program import variables
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import SEGMENT_PREFIX, RunDir
from tests.cli.shell import environment, run

USER = 4321


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_bus_that_is_well(bus: EventBus, run_dir: Path) -> None:
    pid = bus.statistics().manager_pid
    said = run(run_dir, "doctor").stdout
    assert f"ok       bus test: manager {pid} runs, with 0 unsettled events" in said
    for subject in (
        "/dev/shm",
        "systemd RemoveIPC",
        "open files",
        "cgroup memory",
        "Python",
        "msgpack",
        "start method",
    ):
        assert f" {subject}" in said


def test_findings_are_an_exit_code_and_json(run_dir: Path) -> None:
    command = [sys.executable, "-m", "eventbus_mp", "doctor", "--json"]
    mistyped = environment(run_dir, EVENTBUS_MP_MANAGER_IDEL_S="2")
    done = subprocess.run(command, env=mistyped, capture_output=True, text=True, timeout=60, check=False)
    (found,) = [finding for finding in json.loads(done.stdout) if "IDEL" in finding["text"]]
    assert (done.returncode, found["level"], found["subject"]) == (1, "warning", "settings")
    assert found["advice"] == "perhaps EVENTBUS_MP_MANAGER_IDLE_S is meant"


def test_variables_that_are_wrong() -> None:
    (found,) = variables({"EVENTBUS_MP_CREDIT_MAX": "many"})
    assert (found.level, found.text[:28]) == ("problem", "EVENTBUS_MP_CREDIT_MAX='many'"[:28])
    (found,) = variables({"EVENTBUS_MP_CREDIT_MAX": "5", "OTHER": "1"})
    assert found == Finding("ok", "settings", "EVENTBUS_MP_CREDIT_MAX=5")


def test_shared_memory(tmp_path: Path) -> None:
    assert shared_memory(Path("/dev/shm")).text.endswith(" are free") or shared_memory(Path("/dev/shm")).advice
    missing = shared_memory(tmp_path / "none")
    assert (missing.level, missing.text) == ("problem", "it cannot be used: No such file or directory")


def test_systemd_removes_what_a_user_has(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert remove_ipc(root, USER).text == "systemd does not run here"
    (root / "run/systemd/system").mkdir(parents=True)
    assert remove_ipc(root, 0).level == "ok"
    found = remove_ipc(root, USER)  # systemd's own default is yes
    assert (found.level, found.advice[:26]) == ("problem", "loginctl enable-linger 432")
    write(root / "etc/systemd/logind.conf", "[Login]\n#RemoveIPC=yes\nRemoveIPC=no\n")
    assert remove_ipc(root, USER).text == "it is off"
    write(root / "etc/systemd/logind.conf.d/50-local.conf", "[Login]\nRemoveIPC=yes\n")
    assert remove_ipc(root, USER).level == "problem"
    write(root / "var/lib/systemd/linger/4321")
    assert remove_ipc(root, USER).level == "ok"


def test_descriptors() -> None:
    assert open_files(256, 4096).advice.startswith("ulimit -n 4096, ")
    assert open_files(1024, 4096).level == open_files(-1, -1).level == "ok"


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/user/job", "sys/fs/cgroup/user", ("memory.max", "memory.current")),
        (
            "3:cpu:/\n4:memory:/user/job",
            "sys/fs/cgroup/memory/user",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_control_group(line: str, folder: str, names: tuple[str, str], tmp_path: Path) -> None:
    """That of the group above counts as well."""
    assert cgroup_memory(tmp_path).text == "there is no limit"
    write(tmp_path / "proc/self/cgroup", line)
    write(tmp_path / folder / "job" / names[0], "max" if "max" in names[0] else str((1 << 63) - 4096))
    assert cgroup_memory(tmp_path).text == "there is no limit"
    write(tmp_path / folder / names[0], str(512 << 20))
    used = write(tmp_path / folder / names[1], str(100 << 20))
    assert cgroup_memory(tmp_path).text == "100 MiB of 512 MiB are used"
    used.write_text(str(400 << 20))
    assert cgroup_memory(tmp_path).level == "warning"


@pytest.mark.usefixtures("cleans_alone")
def test_what_dead_buses_left(run_dir: Path) -> None:
    path = Path("/dev/shm") / f"{SEGMENT_PREFIX}{os.urandom(6).hex()}-{os.urandom(4).hex()}-1"
    path.write_bytes(b"x" * 10_000)
    try:
        leftovers, *_ = bus_findings(run_dir)
        assert (leftovers.level, leftovers.advice) == ("warning", "eventbus-mp clean")
        assert "dead buses left" in leftovers.text
    finally:
        path.unlink()


def test_a_manager_of_another_version(run_dir: Path) -> None:
    """It answers as a manager of version 1 does."""
    place = RunDir(run_dir, "test")
    place.create()
    listener = handshake.listen(place.socket)
    listener.setblocking(True)

    def answer() -> None:
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.send(handshake._pack([handshake.MAGIC, 1, "it speaks version 9, this side 1"]))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        _, found = bus_findings(run_dir)
    finally:
        thread.join()
        listener.close()
        place.socket.unlink()
        place.path.rmdir()
    assert (found.level, found.subject) == ("problem", "bus test")
    assert "it speaks version 1, this side" in found.text


def test_a_bus_that_is_full(make_bus: Callable[..., EventBus], run_dir: Path) -> None:
    bus = make_bus(topics=["a"], notify_timeout_s=0)
    bus.inbox("audit", ["a"])
    with pytest.raises(BusFull):
        bus.notify_many(Event(number, "a", "x" * 50_000) for number in range(500))
    found = [finding for finding in bus_findings(run_dir) if finding.subject == "bus test"]
    assert any("of memory are in use" in finding.text for finding in found)
    assert any(finding.advice.startswith("eventbus-mp stuck test") for finding in found)
