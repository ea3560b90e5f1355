"""Too little memory, descriptors or room in pipes: a clear error or a wait, and never a SIGBUS or a deadlock."""

import fcntl
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import BusFull, Event, EventBus, EventBusError, ManagerLost, WaitTimeout
from eventbus_mp.client.transport import PipeTransport
from eventbus_mp.runtime.rundir import RunDir
from tests.faults.namespaces import may_mount, with_shared_memory
from tests.helpers import pause

Make = Callable[..., EventBus]
Fork = Callable[..., Any]
MIB = 1 << 20
F_SETPIPE_SZ = 1031


def large(number: int, nbytes: int = MIB) -> Event:
    return Event(str(number), "a", bytes([number % 256]) * nbytes)


# --- a small /dev/shm ---


@pytest.fixture
def in_small_memory(fork: Fork) -> Callable[..., Any]:
    """Runs `work(to_parent)` in a process whose /dev/shm has these mount options; gives what it says."""
    if not may_mount():
        pytest.skip("this user may not mount: no /dev/shm of another size")

    def run(options: str, work: Callable[[Any], Any]) -> Any:
        def inside(to_parent: Any) -> None:
            with_shared_memory(options)
            to_parent.send(work(to_parent))

        child = fork(inside)
        said = child.hear(60)
        assert child.wait() == 0, "it was killed: SIGBUS?"
        return said

    return run


def test_no_bus_fits_into_a_megabyte(make_bus: Make, run_dir: Path, in_small_memory: Callable[..., Any]) -> None:
    def work(to_parent: Any) -> str:
        with pytest.raises(ManagerLost) as caught:
            make_bus(memory_bytes_max=None).topics()
        return str(caught.value)

    said = in_small_memory("size=1m", work)
    assert "/dev/shm has 1048576 bytes free, and a bus needs at least 4194304" in said
    assert "docker run --shm-size=1g" in said
    RunDir(run_dir, "test").clean()  # The log was left to be read.


@pytest.mark.parametrize("nbytes", [100, 50_000, 2 * MIB])
def test_a_bus_that_promises_more_than_there_is(
    make_bus: Make, in_small_memory: Callable[..., Any], nbytes: int
) -> None:
    def work(to_parent: Any) -> tuple[str, int, int]:
        bus = make_bus(topics=["a"], memory_bytes_max=16 * MIB, notify_timeout_s=0.3)
        inbox = bus.inbox("hoarder", ["a"], credit=100_000)
        sent = 0

        def send_until_full() -> None:
            nonlocal sent
            while True:
                bus.notify_many(large(sent + n, nbytes) for n in range(10))
                sent += 10

        with pytest.raises(BusFull) as caught:
            send_until_full()
        got = 0
        while bus.statistics().events_unsettled:
            for shadow in inbox.get_many(1_000, 20):
                assert bus.fetch_event(shadow) is not None
                inbox.complete(shadow)
                got += 1
        if nbytes < MIB:
            bus.notify(large(1, nbytes))  # The memory that came free.
        bus.shutdown()
        return str(caught.value), sent, got

    text, sent, got = in_small_memory("size=4m" if nbytes < MIB else "size=1m", work)
    assert text.startswith("/dev/shm is full: ")
    assert "docker run --shm-size=1g" in text
    assert "hoarder has" in text or nbytes > MIB
    assert sent <= got < sent + 10


def test_who_waits_for_memory_gets_what_comes_free(make_bus: Make, in_small_memory: Callable[..., Any]) -> None:
    """64 MB as in Docker, and a bus that promises a gigabyte: 200 MB go through it, and nobody sees an error."""

    def work(to_parent: Any) -> int:
        bus = make_bus(topics=["a"], memory_bytes_max=1024 * MIB, notify_timeout_s=30)
        got: list[tuple[int, int, int]] = []
        bus.on("a")(lambda event: got.append((int(event.id) % 256, event.data[0], event.data[-1])))
        for number in range(100):
            bus.notify(large(number, 2 * MIB - 1000))
        bus.drain(timeout_s=30)
        assert got == [(number, number, number) for number in range(100)]
        bus.shutdown()
        return len(got)

    assert in_small_memory("size=64m", work) == 100


def test_warm_memory_makes_room_for_a_large_event(make_bus: Make, in_small_memory: Callable[..., Any]) -> None:
    """A bus of 80 MiB, /dev/shm not much larger: what lies free and warm beside one small event gives up its pages."""

    def work(to_parent: Any) -> list[int]:
        bus = make_bus(topics=["a", "b"], memory_bytes_max=80 * MIB, notify_timeout_s=5)
        inbox = bus.inbox("keeper", ["a"], credit=1000)
        kept = bus.notify(Event("kept", "a", b"k" * 1000))
        lengths = []
        for round_number in range(3):
            for number in range(60):
                bus.notify(large(number, MIB - 1000))
            for shadow in inbox:
                if shadow != kept:
                    inbox.complete(shadow)
                if shadow.id == "59":
                    break
            bus.notify(large(round_number, 60 * MIB))
            (shadow,) = inbox.get_many(1, 20)
            data = bus.fetch_event_data(shadow)
            assert (data[0], data[-1]) == (round_number, round_number)
            lengths.append(len(data))
            inbox.complete(shadow)
            del data
            assert bus.fetch_event_data(kept) == b"k" * 1000
            maps = Path("/proc/self/maps").read_text().splitlines()
            assert not [line for line in maps if "ebmp-" in line and "(deleted)" in line]
        bus.shutdown()
        return lengths

    assert in_small_memory("size=96m", work) == [60 * MIB] * 3


def test_a_segment_that_cannot_be_made(make_bus: Make, in_small_memory: Callable[..., Any]) -> None:
    def work(to_parent: Any) -> tuple[str, bytes]:
        bus = make_bus(topics=["a"], notify_timeout_s=0.2)
        inbox = bus.inbox("one", ["a"])
        with pytest.raises(BusFull) as caught:
            bus.notify(large(1, 10))
        bus.register_topic("b")  # The manager lives.
        with_shared_memory("size=64m,nr_inodes=100", again=True)
        bus.notify(large(1, 10), timeout_s=30)
        data = bus.fetch_event_data(inbox.get(20))  # type: ignore[arg-type]
        bus.shutdown()
        return str(caught.value), data

    text, data = in_small_memory("size=64m,nr_inodes=2", work)
    assert "gives no shared memory" in text
    assert data == bytes([1]) * 10


# --- memory_bytes_max ---


def test_a_slow_subscriber_slows_its_producers(make_bus: Make) -> None:
    bus = make_bus(topics=["a"], notify_timeout_s=60)
    got: list[int] = []

    @bus.on("a")
    def slow(event: Event) -> None:
        pause(0.002)
        got.append(event.data[0])

    for number in range(60):
        bus.notify(large(number))
    bus.drain(timeout_s=60)
    assert got == list(range(60))


def fill(bus: EventBus) -> None:
    while True:
        bus.notify(large(0), timeout_s=0)


def test_a_stuck_subscriber_is_named(make_bus: Make, fork: Fork) -> None:
    bus = make_bus(topics=["a"], notify_timeout_s=0.3)

    def host(to_parent: Any) -> None:
        bus.on("a", name="stuck one", credit=2)(lambda event: to_parent.send(event.data[0]))
        to_parent.send("ready")
        signal.pause()

    child = fork(host)
    assert child.hear() == "ready"
    os.kill(child.pid, signal.SIGSTOP)
    sent = 0

    def send_until_full() -> None:
        nonlocal sent
        while True:
            bus.notify(large(sent))
            sent += 1

    with pytest.raises(BusFull, match=r"stuck one has 2 events in flight and \d+ queued"):
        send_until_full()
    os.kill(child.pid, signal.SIGCONT)
    assert [child.hear() for _ in range(sent)] == list(range(sent))
    bus.notify(large(sent))
    assert child.hear() == sent


def test_a_manager_that_hangs_lengthens_no_wait(make_bus: Make) -> None:
    """Who holds the memory is not known then; a wait of 60 s for that would end with ManagerLost."""
    bus = make_bus(topics=["a"], request_timeout_s=60)
    inbox = bus.inbox("slow", ["a"], credit=1)
    with pytest.raises(BusFull, match="slow has 1 events in flight"):
        fill(bus)
    manager = bus.statistics().manager_pid
    os.kill(manager, signal.SIGSTOP)
    try:
        with pytest.raises(BusFull, match=r"became free within 0\.2 s: the manager does not answer"):
            bus.notify(large(0), timeout_s=0.2)
        with pytest.raises(BusFull, match="the manager does not answer") as caught:
            bus.notify_many([large(0)], timeout_s=0)
        assert caught.value.published == ()
        with pytest.raises(WaitTimeout, match="the manager does not answer"):
            bus.drain(timeout_s=0.2)
    finally:
        os.kill(manager, signal.SIGCONT)
    inbox.close()
    bus.drain(timeout_s=30)
    bus.notify(large(0), timeout_s=30)


def full_of_a_dead_ones_events(make_bus: Make, fork: Fork, **settings: Any) -> EventBus:
    """A bus whose memory is full of events for a subscriber that was just killed."""
    bus = make_bus(topics=["a"], notify_timeout_s=0.2, **settings)

    def host(to_parent: Any) -> None:
        bus.inbox("dead one", ["a"])
        to_parent.send("ready")
        signal.pause()

    child = fork(host)
    assert child.hear() == "ready"
    with pytest.raises(BusFull, match="dead one has"):
        bus.notify_many(large(number) for number in range(100))
    child.kill()
    return bus


def test_a_dead_subscriber_is_named(make_bus: Make, fork: Fork) -> None:
    bus = full_of_a_dead_ones_events(make_bus, fork, orphan_grace_s=600.0)
    with pytest.raises(BusFull, match=r"dead one has 0 events in flight and \d+ queued"):
        bus.notify(large(0))


def test_a_dead_subscriber_is_given_up(make_bus: Make, fork: Fork) -> None:
    bus = full_of_a_dead_ones_events(make_bus, fork, orphan_grace_s=0.5)
    bus.notify(large(1), timeout_s=30)  # Goes on when the grace is over.
    bus.drain(timeout_s=30)
    assert bus.statistics().memory_bytes_used <= 4 * MIB


@pytest.mark.parametrize("nbytes", [30_000, 400_000])
def test_a_pipeline_whose_stages_publish_while_memory_is_full(make_bus: Make, fork: Fork, nbytes: int) -> None:
    bus = make_bus(topics=["a", "b", "c"], memory_bytes_max=4 * MIB, notify_timeout_s=60)
    stages = {"a": "b", "b": "c"}

    def stage(source: str) -> Callable[[Any], None]:
        def work(to_parent: Any) -> None:
            @bus.on(f"{source}$", name=f"stage {source}")
            def hand_over(event: Event) -> None:
                bus.notify(Event(event.id, stages[source], event.data))

            to_parent.send("ready")
            signal.pause()

        return work

    inbox = bus.inbox("end", ["c"], credit=8)
    children = [fork(stage(source)) for source in ("a", "a", "b", "b")]
    assert [child.hear() for child in children] == ["ready"] * 4

    def produce(to_parent: Any) -> None:
        for number in range(60):
            bus.notify(large(number, nbytes))
        to_parent.send("all sent")

    producer = fork(produce)
    got: list[int] = []
    while len(got) < 60:
        shadow = inbox.get(60)
        assert shadow is not None, f"a deadlock after {len(got)} events"
        got.append(bus.fetch_event_data(shadow)[0])
        inbox.complete(shadow)
    assert sorted(got) == list(range(60))
    assert producer.hear() == "all sent"


# --- descriptors and pipes ---


def test_sixty_four_descriptors(make_bus: Make, fork: Fork) -> None:
    """More processes connect than the manager can hold: the last are refused with a reason, others notice nothing."""
    bus = make_bus(topics=["a"])

    def start(to_parent: Any) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        to_parent.send(bus.topics())
        to_parent.recv()

    def connect(to_parent: Any) -> None:
        try:
            to_parent.send(bus.topics())
        except EventBusError as error:
            to_parent.send(str(error))
        to_parent.recv()

    first = fork(start)
    assert first.hear() == ["a"]
    with bus.inbox("one", ["a"], credit=100) as inbox:
        children = [fork(connect) for _ in range(30)]
        said = [child.hear(60) for child in children]
        assert set(map(str, said)) == {
            "['a']",
            "the manager refused this process: the manager has no file descriptors left; raise its limit (ulimit -n)",
        }
        assert said.count(["a"]) >= 8
        for child in children:
            child.tell()
            child.wait()
        for number in range(50):
            bus.notify(large(number, 1000))
            assert inbox.get(20) == ("a", str(number))
        late = fork(connect)
        assert late.hear() == ["a"]


def test_the_smallest_pipes(make_bus: Make) -> None:
    bus, producer = make_bus(topics=["a"]), make_bus()
    producer.topics()
    got: list[int] = []
    bus.on("a", name="taker")(lambda event: got.append(event.data))
    for handle in (bus, producer):
        assert handle._session is not None
        transport = handle._session.connection.transport
        assert isinstance(transport, PipeTransport)
        for fd in (transport._incoming, transport._outgoing):
            assert fcntl.fcntl(fd, F_SETPIPE_SZ, 4096) == 4096
    for start in range(0, 5000, 500):
        producer.notify_many(Event(str(n), "a", n) for n in range(start, start + 500))
        assert len(producer.watchers("a")) >= 0  # A reply of many frames.
    bus.drain(timeout_s=60)
    assert got == list(range(5000))


def test_an_event_expires_when_the_manager_has_no_descriptor_left(bus: EventBus) -> None:
    """It cannot read the event's id then, which is for the statistics only."""
    bus.inbox("one", ["a"], credit=1)
    bus.notify(Event("held", "a", 0))
    pid = bus.statistics().manager_pid
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(number for number in range(10_000) if number not in used)
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    now = time.time_ns() // 1000
    bus.notify_many(Event(str(number), "a", 0, occurred_at=now, ttl=100_000) for number in range(3))
    while bus.statistics().subscribers[0].skipped < 3:
        bus.topics()
    statistics = bus.statistics()
    assert statistics.manager_pid == pid
    assert [reason for _, reason in statistics.subscribers[0].recent_skips] == ["expired"] * 3
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
