"""The commands that begin and end buses: serve, stop, clean."""

import json
import os
import signal
from pathlib import Path

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.rundir import RunDir
from tests.cli.shell import json_output, run, started


@pytest.mark.usefixtures("cleans_alone")
def test_a_bus_is_served_by_a_service_of_its_own_and_stopped(run_dir: Path) -> None:
    with started(run_dir, "serve", "test", "--topic", "a", EVENTBUS_MP_ORPHAN_GRACE_S="3600") as service:
        assert service.stdout is not None
        said = service.stdout.readline()
        with EventBus.attach("test", run_dir=str(run_dir)) as watcher:
            pid = watcher.statistics().manager_pid
        assert said.startswith(f"test: manager {pid}, ")
        bus = EventBus("test", run_dir=str(run_dir))
        assert bus.topics() == ["a"]
        bus.inbox("one", ["a"])
        bus.notify(Event("1", "a", 1))
        # The service is stopped, with all of its processes: the manager stays for the others.
        for number in (pid, service.pid):
            os.kill(number, signal.SIGTERM)
        assert "the manager stays while other processes use the bus" in service.stdout.read()
        service.wait()
    assert service.returncode == 0
    bus.notify(Event("2", "a", 2))
    assert bus.statistics().manager_pid == pid
    bus.close()
    done = run(run_dir, "stop", "test")
    assert (done.returncode, done.stdout) == (0, "test: stopped, 2 unsettled events dropped\n")
    assert not RunDir(run_dir, "test").path.exists()
    done = run(run_dir, "stop", "test")
    assert done.returncode == 3
    assert "no bus 'test' is running" in done.stderr


def test_stop_and_serve_in_json(run_dir: Path) -> None:
    with started(run_dir, "serve", "test", "--json") as service:
        assert service.stdout is not None
        serving = json.loads(service.stdout.readline())
        assert (serving["bus"], serving["memory_bytes_max"] > 0) == ("test", True)
        service.terminate()
        assert json.loads(service.stdout.read()) == {"bus": "test", "left": True}
        service.wait()
    assert json_output(run_dir, "stop", "test") == {"bus": "test", "dropped": 0}


def test_clean_removes_what_a_killed_bus_left_and_leaves_a_running_one(run_dir: Path) -> None:
    left = RunDir(run_dir, "dead")
    left.create()
    (Path("/dev/shm") / f"{left.segment_prefix}0123-1").write_bytes(b"left")
    with EventBus("alive", run_dir=str(run_dir), manager_idle_s=0.0) as bus:
        bus.topics()
        done = run(run_dir, "clean")
        assert done.returncode == 0, done.stderr
        assert "dead: removed, with 1 segment " in done.stdout
        assert "alive: running, left alone" in done.stdout
        assert not list(Path("/dev/shm").glob(f"{left.segment_prefix}*"))
        assert not left.path.exists()
        bus.shutdown()


@pytest.mark.usefixtures("cleans_alone")
def test_clean_leaves_what_is_not_a_bus_s(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    for name in ("socket", "program.py"):
        (tmp_path / "project" / name).write_text("of somebody else")
    done = run(tmp_path, "clean")
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "program.py", "project", "socket"]


def test_a_killed_bus_is_not_running(tmp_path: Path) -> None:
    """To ask for its status starts no new one."""
    left = RunDir(tmp_path, "dead")
    left.create()
    handshake.listen(left.socket).close()
    assert "no bus is running" in run(tmp_path, "status").stdout
    assert run(tmp_path, "status", "dead").returncode == 3
    assert list(left.path.iterdir()) == [left.socket]
