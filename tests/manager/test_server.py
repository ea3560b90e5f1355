"""The manager as others see it: exactly one, gone when it should be, and deaf to garbage."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from eventbus_mp import BusConfig, Event, EventBus, EventBusError, ManagerLost
from eventbus_mp.client.connect import open_connection
from eventbus_mp.errors import ProtocolError
from eventbus_mp.manager import acceptor
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.runtime import handshake
from eventbus_mp.runtime.endings import manager_end
from eventbus_mp.runtime.rundir import RunDir
from tests.helpers import until

Make = Callable[..., EventBus]
WaitForEnd = Callable[..., None]


@contextmanager
def connected(run_dir: Path) -> Iterator[socket.socket]:
    """A connection to the manager of bus "test", as any process may open it."""
    with handshake.connect(RunDir(run_dir, "test").socket, 10.0) as connection:
        yield connection


def log_of(run_dir: Path) -> str:
    return RunDir(run_dir, "test").log.read_text()


def test_sixteen_processes_that_race_start_one_manager(make_bus: Make, fork: Callable[..., Any]) -> None:
    bus = make_bus(topics=["a"])

    def connect(to_parent: Any) -> None:
        to_parent.recv()
        to_parent.send(bus.statistics().manager_pid)
        to_parent.recv()

    children = [fork(connect) for _ in range(16)]
    for child in children:
        child.tell()
    pids = {child.hear() for child in children}
    assert pids == {bus.statistics().manager_pid}
    assert bus.statistics().links == 17


def test_the_manager_leaves_after_the_last_process(make_bus: Make, wait_for_end: WaitForEnd, run_dir: Path) -> None:
    bus = make_bus(topics=["a"], manager_idle_s=0.1, orphan_grace_s=0.1)
    bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    pid = bus.statistics().manager_pid
    assert RunDir(run_dir, "test").clean() is None
    bus.close()
    wait_for_end(pid)
    assert not RunDir(run_dir, "test").path.exists()


def test_one_bus_after_the_other(make_bus: Make) -> None:
    """A start while the manager before is leaving waits for it, or finds nothing of it."""
    for index in range(10):
        bus = make_bus(topics=["a"], manager_idle_s=0)
        assert bus.topics() == ["a"]
        if index % 2:
            bus.shutdown()
        bus.close()


def test_what_a_killed_bus_left_is_removed_at_the_next_start(
    make_bus: Make, run_dir: Path, kill_bus: Callable[[], None]
) -> None:
    bus = make_bus(topics=["a"], reconnect=False)
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", 1))
    assert inbox.get(10) is not None
    found = RunDir(run_dir, "test")
    kill_bus()
    with pytest.raises(ManagerLost, match="manager of bus 'test' is gone"):
        inbox.get(10)
    left = set(Path("/dev/shm").glob(f"{found.segment_prefix}*"))
    assert left
    assert make_bus().topics() == []
    assert not left & set(Path("/dev/shm").glob(f"{found.segment_prefix}*"))


def test_everybody_who_waits_is_told_when_all_of_the_bus_is_killed(
    make_bus: Make, kill_bus: Callable[[], None]
) -> None:
    bus = make_bus(topics=["a"], reconnect=False)
    inbox = bus.inbox("one", ["a"])
    bus.inbox("two", ["a"])
    bus.notify(Event("1", "a", 1))
    assert inbox.get(10) is not None
    errors: list[BaseException] = []

    def expect_an_error(call: Callable[[], object]) -> None:
        try:
            call()
        except EventBusError as error:
            errors.append(error)

    calls = (inbox.get, bus.drain, lambda: bus.notify_and_wait(Event("2", "a", 2)))
    threads = [threading.Thread(target=expect_an_error, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    kill_bus()
    for thread in threads:
        thread.join(20)
    # The inbox may have got event 2 before.
    assert [type(error) for error in errors] in ([ManagerLost] * 3, [ManagerLost] * 2)
    for call in (bus.topics, lambda: bus.notify(Event("3", "a", 3)), lambda: inbox.get(1)):
        with pytest.raises(ManagerLost):
            call()


def test_two_buses_side_by_side(make_bus: Make) -> None:
    bus, other = make_bus("test", ["a"]), make_bus("other", ["b"])
    assert (bus.topics(), other.topics()) == (["a"], ["b"])
    assert bus.statistics().manager_pid != other.statistics().manager_pid


# --- bad input ---


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 4096, bytes(4096), b"\x01" * 41, os.urandom(100_000), b"GET / HTTP/1.1\r\n\r\n" * 10],
    ids=["ff", "zeros", "ones", "random", "http"],
)
def test_garbage_on_a_pipe_ends_that_link_only(bus: EventBus, run_dir: Path, garbage: bytes) -> None:
    inbox = bus.inbox("one", ["a"])
    with connected(run_dir) as connection:
        connection.sendall(handshake.hello())
        welcome, incoming, outgoing = handshake.receive_welcome(connection)
    assert welcome.manager_pid == bus.statistics().manager_pid
    os.write(outgoing, garbage)
    os.close(outgoing)
    assert os.read(incoming, 1) == b""
    os.close(incoming)
    bus.notify(Event("1", "a", 1))
    assert inbox.get(10) == ("a", "1")
    assert bus.statistics().links == 1
    assert "broke the protocol and is cut off" in log_of(run_dir)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 9000, b"\x02\x00\x00\x00\xc1\xc1"])
def test_garbage_on_the_socket_is_refused(bus: EventBus, run_dir: Path, garbage: bytes) -> None:
    bus.topics()
    with connected(run_dir) as connection:
        connection.sendall(garbage)
        with pytest.raises((EventBusError, ConnectionError)):
            handshake.receive_welcome(connection)
    assert bus.topics() == ["a", "b"]
    assert bus.statistics().links == 1


def test_another_version_is_told_which_one_this_is(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    body = msgpack.packb([handshake.MAGIC, 99, os.getpid()])
    with connected(run_dir) as connection:
        connection.sendall(len(body).to_bytes(4, "little") + body)
        with pytest.raises(EventBusError, match="it speaks version 99, this side"):
            handshake.receive_welcome(connection)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_manager_that_is_asked_to_end_stays_while_it_is_used(
    make_bus: Make, run_dir: Path, wait_for_end: WaitForEnd, number: int
) -> None:
    """As when the service is stopped that happened to start it. Then it ends at once, and its standby with it."""
    bus = make_bus(topics=["a"], manager_idle_s=3600)
    inbox = bus.inbox("one", ["a"])
    bus.notify(Event("1", "a", bytes(100_000)))
    pid = bus.statistics().manager_pid
    os.kill(pid, number)
    until(lambda: bus.snapshot().manager.is_end_asked)
    assert "stays until the processes that use it have left" in log_of(run_dir)
    shadow = inbox.get(10)
    assert bus.fetch_event_data(shadow) == bytes(100_000)
    inbox.complete(shadow)
    bus.drain(timeout_s=10)
    assert bus.statistics().manager_pid == pid
    bus.close()
    wait_for_end(pid)
    found = RunDir(run_dir, "test")
    assert not found.path.exists()
    assert SHARED_MEMORY.leftovers(found.segment_prefix) == []


def test_an_asked_manager_is_followed_by_one_that_knows(make_bus: Make, wait_for_end: WaitForEnd) -> None:
    bus = make_bus(topics=["a"], manager_idle_s=3600)
    pid = bus.statistics().manager_pid
    os.kill(pid, signal.SIGTERM)
    until(lambda: bus.snapshot().manager.is_end_asked)
    os.kill(pid, signal.SIGKILL)
    heir = bus.statistics().manager_pid
    assert heir != pid
    assert bus.snapshot().manager.is_end_asked
    bus.close()
    wait_for_end(heir)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_is_meant_for_others_changes_nothing(bus: EventBus, number: int) -> None:
    now = bus.snapshot().manager
    for pid in (now.pid, now.standby_pid):
        assert pid is not None
        os.kill(pid, number)
    after = bus.snapshot().manager
    assert (after.pid, after.standby_pid, after.is_end_asked) == (now.pid, now.standby_pid, False)


def test_a_restart_of_all_processes_finds_the_queue(make_bus: Make, wait_for_end: WaitForEnd) -> None:
    """A deploy: the last process leaves with events waiting, and the bus stays for longer than for an empty one."""
    before = make_bus(topics=["a"], manager_idle_s=0, orphan_grace_s=3600)
    inbox = before.inbox("jobs", ["a"], credit=1)
    before.notify_many(Event(str(n), "a", n) for n in range(100))
    shadow = inbox.get(10)
    assert shadow is not None
    inbox.complete(shadow)
    pid = before.statistics().manager_pid
    os.kill(pid, signal.SIGTERM)  # As the service manager does to all of a service's processes.
    before.close()
    with EventBus.attach("test", config=before.config) as watcher:
        until(lambda: watcher.snapshot().manager.leaves_in_s is not None)
        now = watcher.statistics()
        (jobs,) = now.subscribers
        assert (now.manager_pid, jobs.queued) == (pid, 99)
        assert jobs.grace_left_s is not None
        assert now.leaves_in_s is not None
        assert 3500 < jobs.grace_left_s <= now.leaves_in_s <= 3600
    after = make_bus(topics=["a"])
    again = after.inbox("jobs", ["a"])
    found = again.get_many(100, 10)
    assert [shadow.id for shadow in found] == [str(n) for n in range(1, 100)]
    again.complete_many(found)
    after.close()
    wait_for_end(pid)


def test_a_hello_in_pieces_is_a_hello(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    with connected(run_dir) as connection:
        for byte in handshake.hello():
            connection.sendall(bytes([byte]))
        _, *fds = handshake.receive_welcome(connection)
    for fd in fds:
        os.close(fd)


def test_a_silent_connection_keeps_nobody_waiting(bus: EventBus, run_dir: Path, make_bus: Make) -> None:
    bus.topics()
    with connected(run_dir), connected(run_dir) as half:
        half.sendall(handshake.hello()[:5])
        assert make_bus().topics() == ["a", "b"]


def test_who_stays_silent_is_sent_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(acceptor, "SILENCE_NS_MAX", 0)
    watched: dict[int, Callable[[], None]] = {}
    path = tmp_path / "socket"
    with handshake.listen(path) as listener:
        found = acceptor.Acceptor(listener, watched.__setitem__, watched.__delitem__, lambda *_: None)
        assert found.next_due_ns() is None
        with handshake.connect(path, 10.0) as silent:
            found.accept()
            assert found.next_due_ns() is not None
            found.drop_silent()
            assert silent.recv(1) == b""
        found.accept()  # nobody is there
        assert watched == {}
        found.close()


def test_a_manager_of_another_version_is_an_error_for_the_client() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        body = msgpack.packb([handshake.MAGIC, 99, 1, "x", 1, 1, 1])
        theirs.sendall(len(body).to_bytes(4, "little") + body)
        with pytest.raises(ProtocolError, match="it speaks version 99"):
            handshake.receive_welcome(ours)


def test_a_new_manager_tells_everybody_at_once(run_dir: Path) -> None:
    """Whoever waits for what the one before had taken in sends nothing that would wake its successor."""
    connection = open_connection("test", BusConfig(run_dir=str(run_dir), manager_idle_s=0.1))
    before = connection.manager_pid
    os.kill(before, signal.SIGKILL)
    assert connection.wait(lambda: connection.manager_pid != before, 20)
    with manager_end(connection.manager_pid) as has_ended:
        connection.close(lambda: None)
        assert has_ended(20)
