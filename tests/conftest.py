"""What every test stands on: a bus of its own, a proof that it left nothing, and a watchdog against deadlocks."""

import faulthandler
import multiprocessing
import os
import select
import signal
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from multiprocess import forkserver

from eventbus_mp import EventBus
from eventbus_mp.runtime.endings import manager_end
from eventbus_mp.runtime.filelocks import held_while_starting
from eventbus_mp.runtime.rundir import RunDir

WATCHDOG_S = 180
"""Longer than any program that a test starts may take."""
MEMORY_BYTES = 16 << 20
BUS_NAMES = ("test", "other")
HELPERS = ("multiprocess.forkserver", "multiprocess.resource_tracker", "multiprocessing.resource_tracker")


HERE = Path(__file__).resolve().parent
ONE_PYTHON = (
    "addons",
    "cli",
    "core",
    "demo",
    "faults",
    "properties",
    "servers",
    "test_benchmarks.py",
    "test_docs.py",
    "test_examples.py",
    "test_layering.py",
    "test_tidy.py",
    "worker/test_pipelines.py",
    "worker/test_service.py",
)
"""Texts, pure decisions, processes that are killed at each step, and what goes on outside of our package: there is
nothing in them for a second CPython."""
EVERY_PYTHON = (
    "addons/journal/test_sqlite.py",
    "addons/journal/test_store.py",
    "addons/outbox/test_add.py",
    "addons/otel/test_asyncio.py",
    "addons/otel/test_spans.py",
    "faults/test_manager_death.py",
    "faults/test_worker_death.py",
)
"""What of these folders stands on the standard library's sqlite3 and contextvars, or on how a process ends."""


# How long an example takes is the machine's business.
settings.register_profile("any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any pace")


STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Note the standard error stream of the terminal: what a test's own gets is lost when the watchdog ends it all."""
    config.stash[STDERR] = os.dup(2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    once, always = ({HERE / name for name in names} for names in (ONE_PYTHON, EVERY_PYTHON))
    for item in items:
        if item.path not in always and not once.isdisjoint((item.path, *item.path.parents)):
            item.add_marker("one_python")


@pytest.fixture(autouse=True, scope="session")
def helpers_are_running() -> None:
    """What a process starts once and keeps: multiprocess's fork server, and libuv's pipe. Neither is a test's."""
    forkserver.ensure_running()
    if find_spec("uvloop") is not None:
        __import__("uvloop").new_event_loop().close()


@pytest.fixture(autouse=True)
def watchdog(pytestconfig: pytest.Config) -> Iterator[None]:
    """A test that hangs says where, and ends."""
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True, file=pytestconfig.stash[STDERR])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="session")
def state_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes to the user's own, where journals are by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def make_bus(run_dir: Path) -> Iterator[Callable[..., EventBus]]:
    """Makes handles of buses in this test's own run directory; every bus is shut down at the end."""
    handles: list[EventBus] = []

    def make(name: str = "test", topics: tuple[str, ...] | list[str] = (), **settings: Any) -> EventBus:
        settings = {"memory_bytes_max": MEMORY_BYTES, "manager_idle_s": 0.5, "run_dir": str(run_dir), **settings}
        handles.append(EventBus(name, topics, **settings))
        return handles[-1]

    yield make
    for handle in handles:
        handle.close()
    for name in {handle.name for handle in handles}:
        if RunDir(run_dir, name).socket.exists():
            EventBus(name, run_dir=str(run_dir)).shutdown()


@pytest.fixture
def bus(make_bus: Callable[..., EventBus]) -> EventBus:
    """A bus with the topics "a" and "b"."""
    return make_bus(topics=["a", "b"])


class Child:
    """A forked process that runs `work(to_parent)` and ends; `hear` takes what it sends."""

    def __init__(self, work: Callable[[Any], object]) -> None:
        self._from_child, to_parent = multiprocessing.Pipe()
        with warnings.catch_warnings():
            # From 3.12 on, a fork beside threads is warned of. The tests that do it mean to.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            self._run(work, to_parent)
        to_parent.close()

    def _run(self, work: Callable[[Any], object], to_parent: Any) -> None:
        code = 1
        try:
            self._from_child.close()
            work(to_parent)
            code = 0
        except BaseException as error:
            try:
                to_parent.send(error)
            except Exception:  # It cannot be pickled, as those of pytest.
                to_parent.send(AssertionError("".join(traceback.format_exception(error))))
        finally:
            os._exit(code)  # In any case, or there would be a second pytest.

    def hear(self, timeout_s: float = 20.0) -> Any:
        assert self._from_child.poll(timeout_s), "the child says nothing"
        said = self._from_child.recv()
        if isinstance(said, BaseException):
            raise said
        return said

    def tell(self, value: object = None) -> None:
        self._from_child.send(value)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            self.kill()
        self._from_child.close()


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[Any], object]], Child]]:
    """Starts forked children; those that still run at the end are killed."""
    children: list[Child] = []

    def start(work: Callable[[Any], object]) -> Child:
        children.append(Child(work))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def wait_for_end() -> Callable[..., None]:
    """Waits for the end of any process, by the kernel's word."""

    def wait(pid: int, timeout_s: float = 20.0) -> None:
        with manager_end(pid) as has_ended:
            assert has_ended(timeout_s), f"process {pid} does not end"

    return wait


@pytest.fixture
def kill_bus(run_dir: Path) -> Callable[[], None]:
    """Kills every manager and standby of this test's run directory, so that none of them can go on for another."""

    def managers() -> set[int]:
        return {pid for pid, command in _processes(run_dir).items() if "eventbus_mp.manager" in command}

    def send(number: int, pids: set[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # A standby that was dismissed just before.
                os.kill(pid, number)

    def kill() -> None:
        stopped: set[int] = set()
        while new := managers() - stopped:  # And those that they have started meanwhile.
            send(signal.SIGSTOP, new)
            stopped |= new
        assert len(stopped) >= 2
        send(signal.SIGKILL, stopped)
        _await_ends(dict.fromkeys(stopped, ""))

    return kill


@pytest.fixture
def cleans_alone() -> Iterator[None]:
    """`clean` removes what any dead bus on this machine has left, even one of another run of these tests."""
    with held_while_starting(Path(tempfile.gettempdir()) / f"eventbus_mp-tests-{os.getuid()}.lock", WATCHDOG_S / 2):
        yield


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Assert that a test leaves no segment, no process, no file in the run directory and no descriptor of ours.

    It is set up before the fixtures that a test asks for, so it looks when they are gone.
    """
    segments, descriptors, before = _segments(), _descriptors(), set(os.listdir("/proc"))
    yield
    if leaving := _processes(tmp_path, before):
        _await_ends(leaving)
        assert _processes(tmp_path, before) == {}
    run_dir = tmp_path / "run"
    left = [path.relative_to(run_dir) for path in run_dir.rglob("*")] if run_dir.is_dir() else []
    assert left == []
    # Other programs on this machine may use a bus at this moment; only ours is in our run directory.
    ours = tuple(RunDir(run_dir, name).segment_prefix for name in BUS_NAMES)
    assert [name for name in _segments() - segments if name.startswith(ours)] == []
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("eventbus_mp")]
    for thread in threads:
        thread.join(20)
    assert [thread.name for thread in threads if thread.is_alive()] == []
    assert _descriptors() - descriptors == set()


def _segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("ebmp-*")}


def _descriptors() -> set[str]:
    """Pipes, sockets and shared memory that this process has open."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(path)
            if target.startswith(("pipe:", "socket:", "/dev/shm/ebmp-")):
                found.add(target)
    return found


def _processes(tmp_path: Path, before: Set[str] = frozenset()) -> dict[int, str]:
    """Managers of this test's run directory, and children of this process: pid -> command line.

    Those that ran `before` are not looked at, which are most of the machine's.
    """
    found = {}
    parents = {os.getpid(), forkserver._forkserver._forkserver_pid}
    for name in filter(str.isdecimal, set(os.listdir("/proc")) - before):
        with suppress(FileNotFoundError, ProcessLookupError):
            command = _read(f"/proc/{name}/cmdline").replace(b"\0", b" ").decode(errors="replace")
            state, parent, *_ = _read(f"/proc/{name}/stat").rpartition(b") ")[2].split()
            is_ours = str(tmp_path) in command or int(parent) in parents
            if is_ours and state != b"Z" and not any(helper in command for helper in HELPERS):
                found[int(name)] = command
    return found


def _read(path: str) -> bytes:
    """A file of /proc, read by the bare calls: every test looks at all that began meanwhile."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def _await_ends(processes: dict[int, str], timeout_s: float = 20.0) -> None:
    """Give processes that are about to leave the time to; wait on the kernel's word, not on a clock."""
    for pid in processes:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            select.select([pidfd], [], [], timeout_s)
            os.close(pidfd)
