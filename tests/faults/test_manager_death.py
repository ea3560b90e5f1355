"""The manager is killed in the middle: its standby goes on, nothing is lost, nobody has to do anything."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus, ManagerLost, WorkerPool
from eventbus_mp.runtime.rundir import RunDir

Make = Callable[..., EventBus]
KILLS = 20


def kill_manager(bus: EventBus) -> None:
    os.kill(bus.statistics().manager_pid, signal.SIGKILL)


def standby_of(bus: EventBus) -> int:
    """The manager's only child; it has one at the latest when it has answered twice."""
    pid = bus.statistics().manager_pid
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        bus.topics()
    return int(children[-1])


def test_what_happened_is_remembered_with_its_times_and_not_twice(bus: EventBus) -> None:
    inbox = bus.inbox("taker", ["a"], credit=100)
    bus.notify_many(Event(str(number), "a", number) for number in range(50))
    for shadow in inbox.get_many(50, timeout_s=10)[:20]:
        inbox.complete(shadow)
    before = bus.history(limit=1000)
    kill_manager(bus)
    after = bus.history(limit=1000)
    newcomer = next(entry for entry in after.entries if entry.kind == "manager_replaced")
    assert newcomer.pid == bus.statistics().manager_pid != os.getpid()
    assert [entry for entry in after.entries if entry.at_ns < newcomer.at_ns] == list(before.entries)
    assert after.counts["notified"] == 50
    assert after.counts["settled"] == before.counts["settled"] == 20
    assert bus.story(("a", "3"))[-1].endswith("settled")


def test_events_under_load_come_exactly_once(bus: EventBus) -> None:
    got: list[int] = []
    bus.on("a", name="taker")(lambda event: got.append(event.data))
    sent = 0
    for _ in range(KILLS):
        for _ in range(500):
            bus.notify(Event(str(sent), "a", sent))
            sent += 1
        kill_manager(bus)
    bus.drain(timeout_s=30)
    assert got == list(range(sent))
    assert bus.statistics().events_unsettled == 0
    assert bus.statistics().subscribers[0].completed == sent


REFUSING = """
import os, sys

if "eventbus_mp.manager" in " ".join(sys.orig_argv):
    fork, pidfd_open, forks = os.fork, os.pidfd_open, []

    def refusing_fork():
        forks.append(1)
        if len(forks) > 1 and os.path.exists({no_fork!r}):  # The first one is not for a standby.
            raise BlockingIOError(11, "no more processes")
        return fork()

    def refusing_pidfd_open(pid, flags=0):
        with open(f"/proc/self/task/{{os.getpid()}}/children") as children:
            if os.path.exists({no_pidfd!r}) and str(pid) in children.read().split():
                raise OSError(24, "too many open files")
        return pidfd_open(pid, flags)

    os.fork, os.pidfd_open = refusing_fork, refusing_pidfd_open
"""


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A file: as long as it is there, the kernel refuses the managers that start now this, "fork" or "pidfd"."""

    def refuse(what: str) -> Path:
        files = {name: tmp_path / f"no-{name}" for name in ("fork", "pidfd")}
        code = REFUSING.format(no_fork=str(files["fork"]), no_pidfd=str(files["pidfd"]))
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        files[what].touch()
        return files[what]

    return refuse


@pytest.mark.parametrize("what", ["fork", "pidfd"])
def test_a_manager_without_a_standby_works_and_gets_one_later(
    make_bus: Make, refused: Callable[[str], Path], what: str
) -> None:
    flag = refused(what)
    bus = make_bus(topics=["a"])
    got: list[int] = []
    bus.on("a", name="taker")(lambda event: got.append(event.data))
    bus.notify_many(Event(str(n), "a", n) for n in range(1000))
    bus.drain(timeout_s=20)
    pid = bus.statistics().manager_pid
    assert "cannot make a standby" in RunDir(bus.config.run_dir or "", bus.name).log.read_text()
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
    flag.unlink()
    make_bus().topics()  # A process that connects makes the manager fork a standby.
    kill_manager(bus)
    bus.notify_many(Event(str(n), "a", n) for n in range(1000, 2000))
    bus.drain(timeout_s=20)
    assert got == list(range(2000))
    assert bus.statistics().manager_pid != pid


def test_the_end_of_a_manager_without_a_standby_is_said(make_bus: Make, refused: Callable[[str], Path]) -> None:
    refused("fork")
    bus, other = make_bus(topics=["a"], reconnect=False), make_bus(reconnect=False)
    inbox = other.inbox("taker", ["a"])
    bus.notify(Event("1", "a", 1))
    kill_manager(bus)
    for lost in (bus.topics, lambda: bus.notify(Event("2", "a", 2)), lambda: [inbox.get(20), inbox.get(20)]):
        with pytest.raises(ManagerLost, match=r"(?s)is gone; the end of its log.*cannot make a standby"):
            lost()
    anew = make_bus(topics=["b"])  # starts another one, which clears away what the first has left
    assert anew.topics() == ["b"]


def test_requests_and_waits_in_flight_are_answered(bus: EventBus) -> None:
    inbox = bus.inbox("slow", ["a"], credit=100)
    answers: list[Any] = []

    def drain() -> None:
        bus.drain("a", timeout_s=30)
        answers.append(None)

    waiting = threading.Thread(target=lambda: answers.append(bus.notify_and_wait(Event("1", "a", 1), timeout_s=30)))
    draining = threading.Thread(target=drain)
    waiting.start()
    shadow = inbox.get(20)
    assert shadow is not None
    draining.start()
    kill_manager(bus)
    assert bus.register_topic("c")
    kill_manager(bus)
    assert bus.topics() == ["a", "b", "c"]
    inbox.complete(shadow)
    for thread in (waiting, draining):
        thread.join(30)
    watcher = next(answer for answer in answers if answer is not None)
    assert watcher.completers == (inbox.key,)
    assert len(answers) == 2


def test_what_is_in_hand_is_not_delivered_again(bus: EventBus) -> None:
    inbox = bus.inbox("taker", ["a"], credit=10)
    bus.notify_many(Event(str(n), "a", n) for n in range(5))
    taken = [inbox.get(20), inbox.get(20)]
    kill_manager(bus)
    bus.notify(Event("5", "a", 5))
    more = [inbox.get(20) for _ in range(4)]
    assert [shadow.id for shadow in (*taken, *more) if shadow is not None] == ["0", "1", "2", "3", "4", "5"]
    for shadow in (*taken, *more):
        assert shadow is not None
        inbox.complete(shadow)
    bus.drain(timeout_s=20)
    assert inbox.get(0) is None
    assert bus.statistics().subscribers[0].redelivered == 0


def test_a_view_is_still_a_view(bus: EventBus) -> None:
    inbox = bus.inbox("reader", ["a"])
    bus.notify(Event("1", "a", b"x" * 100_000))
    shadow = inbox.get(20)
    assert shadow is not None
    event = bus.fetch_event(shadow)
    assert event is not None
    inbox.complete(shadow)
    kill_manager(bus)
    assert bus.statistics().memory_bytes_leased > 0
    assert sum(bus.statistics().lease_holders.values()) > 100_000
    bus.notify_many(Event(str(n), "b", bytes(1000)) for n in range(1000))
    assert event.data == b"x" * 100_000
    del event
    inbox.get(0)
    assert bus.statistics().memory_bytes_leased == 0


def test_a_pool_works_through(bus: EventBus, run_dir: Path) -> None:
    results = bus.inbox("results", ["b"], credit=1000)
    pool = WorkerPool(bus, 2)

    @pool.on("a", name="square")
    def square(event: Event) -> None:
        bus.notify(Event(event.id, "b", event.data**2))

    with pool:
        for first in range(0, 200, 50):
            bus.notify_many(Event(str(n), "a", n) for n in range(first, first + 50))
            kill_manager(bus)
        bus.drain("a", timeout_s=60)
        got: list[int] = []
        while len(got) < 200:
            shadow = results.get(60)
            assert shadow is not None
            got.append(bus.fetch_event_data(shadow))
            results.complete(shadow)
        bus.drain(timeout_s=60)  # There would be more to settle if one had come twice.
    assert sorted(got) == [n**2 for n in range(200)]
    assert "goes on in its place" in RunDir(run_dir, "test").log.read_text()


def test_a_dead_standby_is_replaced(bus: EventBus, wait_for_end: Callable[..., None]) -> None:
    for _ in range(3):
        pid = standby_of(bus)
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        bus.topics()
        assert standby_of(bus) != pid
    kill_manager(bus)
    assert bus.topics() == ["a", "b"]


def test_both_dead_is_the_end(make_bus: Make, kill_bus: Callable[[], None]) -> None:
    bus = make_bus(reconnect=False)
    bus.topics()
    kill_bus()
    with pytest.raises(ManagerLost, match="manager of bus 'test' is gone"):
        bus.topics()


def test_processes_that_connect_meanwhile(make_bus: Make, bus: EventBus, fork: Callable[..., Any]) -> None:
    bus.topics()

    def connect(to_parent: Any) -> None:
        to_parent.recv()
        with make_bus() as mine:
            mine.on("a", name="shared")(lambda event: None)
            to_parent.send(mine.topics())
            to_parent.recv()

    children = [fork(connect) for _ in range(8)]
    for child in children:
        child.tell()
    for _ in range(5):
        kill_manager(bus)
    assert [child.hear() for child in children] == [["a", "b"]] * 8
    assert bus.statistics().links == 9
    bus.notify_many(Event(str(n), "a", n) for n in range(100))
    bus.drain(timeout_s=20)
    for child in children:
        child.tell()
        child.wait()
    assert bus.subscribers()[0].pids == ()
