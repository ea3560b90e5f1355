"""The transport alone: real pipes, threads that wait on them, signals; no manager and no protocol."""

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_mp import BusClosed, ManagerLost, UsageError
from eventbus_mp.client.transport import PipeTransport
from tests.client.pipes import Peer, in_thread

PIPE_BYTES = 1 << 16


def write(transport: PipeTransport, data: bytes) -> None:
    with transport.lock.held():
        transport.write(data)


def test_what_is_written_arrives_in_order(peer: Peer) -> None:
    write(peer.transport, b"one")
    write(peer.transport, b"two")
    assert os.read(peer.from_transport, 100) == b"onetwo"


def test_a_write_that_is_longer_than_the_pipe(peer: Peer) -> None:
    data = os.urandom(5 * PIPE_BYTES)
    thread = in_thread(lambda: write(peer.transport, data))
    found = b""
    while len(found) < len(data):
        found += os.read(peer.from_transport, PIPE_BYTES)
    thread.join(20)
    assert found == data


def test_a_wait_reads_until_it_is_ready(peer: Peer) -> None:
    peer.say(b"hello")
    assert peer.transport.wait(lambda: peer.received, 20)
    assert peer.received == [b"hello"]


def test_a_wait_that_is_ready_reads_nothing(peer: Peer) -> None:
    peer.say(b"hello")
    assert peer.transport.wait(lambda: True)
    assert peer.received == []


def test_a_wait_of_no_time_takes_in_what_is_there(peer: Peer) -> None:
    assert not peer.transport.wait(lambda: peer.received, 0)
    peer.say(b"hello")
    assert peer.transport.wait(lambda: peer.received, 0)


def test_a_wait_has_an_end(peer: Peer) -> None:
    assert not peer.transport.wait(lambda: False, 0.01)


def test_one_thread_reads_for_all(peer: Peer) -> None:
    transport = peer.transport
    everything: Callable[[], bool] = lambda: b"".join(peer.received) == b"abc"  # noqa: E731
    threads = [in_thread(lambda: transport.wait(everything, 20)) for _ in range(5)]
    while len(transport._turns.followers) < 4:
        threads[0].join(0.001)
    for piece in (b"a", b"b", b"c"):
        peer.say(piece)
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_waking_makes_waiters_look_again(peer: Peer) -> None:
    flag = threading.Event()
    thread = in_thread(lambda: peer.transport.wait(flag.is_set, 20))
    while not peer.transport._turns.leader:
        thread.join(0.001)
    flag.set()
    peer.transport.wake()
    thread.join(20)
    assert not thread.is_alive()


def test_a_watched_descriptor_is_served_while_somebody_waits(peer: Peer) -> None:
    fd = os.eventfd(0)
    served: list[int] = []
    peer.transport.watch(fd, lambda: served.append(os.eventfd_read(fd)))
    os.eventfd_write(fd, 3)
    assert peer.transport.wait(lambda: served, 20)
    assert served == [3]
    peer.transport.unwatch(fd)
    peer.transport.unwatch(fd)
    os.eventfd_write(fd, 4)
    assert not peer.transport.wait(lambda: len(served) > 1, 0.01)
    os.close(fd)


def test_the_end_of_the_peer_is_told_to_waiters_and_writers(peer: Peer) -> None:
    peer.leave()
    with pytest.raises(ManagerLost, match="the peer is gone"):
        peer.transport.wait(lambda: False, 20)
    with pytest.raises(ManagerLost, match="the peer is gone"):
        write(peer.transport, b"x")
    assert peer.received == [b""]


def test_a_write_to_a_peer_that_is_gone(peer: Peer) -> None:
    peer.leave()
    with pytest.raises(ManagerLost, match="the peer is gone"):
        write(peer.transport, b"x")


def test_closing_says_farewell_and_ends_waits(peer: Peer) -> None:
    errors: list[Exception] = []

    def wait() -> None:
        try:
            peer.transport.wait(lambda: False)
        except BusClosed as error:
            errors.append(error)

    threads = [in_thread(wait) for _ in range(3)]
    while len(peer.transport._turns.followers) < 2:
        threads[0].join(0.001)
    peer.transport.close(BusClosed("closed"), b"goodbye")
    for thread in threads:
        thread.join(20)
    assert [str(error) for error in errors] == ["closed"] * 3
    assert os.read(peer.from_transport, 100) == b"goodbye"
    assert os.read(peer.from_transport, 100) == b"", "the pipe is closed"
    peer.transport.close(BusClosed("again"), b"not said")
    peer.transport.wake()


def test_closing_after_the_end_says_nothing(peer: Peer) -> None:
    peer.transport.end(ManagerLost("gone"))
    peer.transport.close(BusClosed("closed"), b"not said")
    assert os.read(peer.from_transport, 100) == b""
    with pytest.raises(ManagerLost, match="gone"):
        peer.transport.wait(lambda: False)


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Callable[[], object]], None]]:
    before = signal.getsignal(signal.SIGALRM)

    def install(handler: Callable[[], object]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: handler())

    yield install
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_handler_closes_what_its_thread_waits_for(peer: Peer, on_alarm: Any) -> None:
    on_alarm(lambda: peer.transport.close(BusClosed("by a handler"), b"bye"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    with pytest.raises(BusClosed, match="by a handler"):
        peer.transport.wait(lambda: False)
    assert peer.transport._incoming == peer.transport._wake_fd == -1, "closed when the wait ended"


def test_a_handler_that_waits_in_the_middle_of_a_wait_is_refused(peer: Peer, on_alarm: Any) -> None:
    refused: list[UsageError] = []

    def handler() -> None:
        try:
            peer.transport.wait(lambda: False, 1)
        except UsageError as error:
            refused.append(error)
            peer.transport.wake()

    on_alarm(handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert peer.transport.wait(lambda: refused, 20)
    assert len(refused) == 1


def test_waiting_in_the_middle_of_writing_is_refused(peer: Peer) -> None:
    with peer.transport.lock.held(), pytest.raises(UsageError, match="would wait for itself"):
        peer.transport.wait(lambda: False, 1)


class Alarm(Exception):
    """What a handler raises."""


def test_a_long_write_that_is_interrupted_goes_on_with_the_next(peer: Peer, on_alarm: Any) -> None:
    def interrupt() -> None:
        raise Alarm

    on_alarm(interrupt)
    data = os.urandom(3 * PIPE_BYTES)
    full = select.poll()
    full.register(peer.transport._outgoing, select.POLLOUT)

    def interrupt_when_it_is_full() -> None:
        while full.poll(0):
            os.sched_yield()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)  # type: ignore[arg-type]

    thread = in_thread(interrupt_when_it_is_full)
    with pytest.raises(Alarm):
        write(peer.transport, data)
    thread.join(20)
    assert not peer.transport.lock.is_mine
    found: list[bytes] = []

    def read_all() -> None:
        while sum(map(len, found)) < len(data) + 4:
            found.append(os.read(peer.from_transport, PIPE_BYTES))

    reader = in_thread(read_all)
    write(peer.transport, b"next")
    reader.join(20)
    assert b"".join(found) == data + b"next"


def test_bytes_that_were_read_are_not_lost_when_a_handler_raises(peer: Peer, on_alarm: Any) -> None:
    """Alarms at any step of reading; each byte arrives once and in order, but for the piece that was being handled."""
    pieces: list[bytes] = []

    def on_data(data: bytes) -> None:
        pieces.append(data)  # One step: what is here has arrived.

    def interrupt() -> None:
        raise Alarm

    peer.transport.on_data = on_data
    on_alarm(interrupt)
    total, alarms = 2_000, 0

    def say_all() -> None:
        for number in range(total):
            peer.say(number.to_bytes(2, "big"))

    thread = in_thread(say_all)

    def wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        peer.transport.wait(lambda: sum(map(len, pieces)) >= 2 * total, 1)

    while sum(map(len, pieces)) < 2 * total and alarms < 500:
        try:
            wait()
        except Alarm:
            alarms += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    thread.join(20)
    found = b"".join(pieces)
    numbers = [int.from_bytes(found[at : at + 2], "big") for at in range(0, len(found), 2)]
    assert numbers == sorted(set(numbers)), "nothing twice, nothing out of order"


def test_a_forked_child_lets_go(peer: Peer, fork: Callable[..., Any]) -> None:
    holds, held = threading.Event(), threading.Event()

    def hold() -> None:
        with peer.transport.lock.held():
            held.set()
            holds.wait(20)

    thread = in_thread(hold)
    assert held.wait(20)

    def work(to_parent: Any) -> None:
        peer.transport.abandon(BusClosed("it is the parent's"))
        with pytest.raises(BusClosed, match="it is the parent's"):
            write(peer.transport, b"x")  # The lock is free here, though a thread of the parent has it.
        to_parent.send("done")

    child = fork(work)
    assert child.hear() == "done"
    assert child.wait() == 0
    holds.set()
    thread.join(20)
    peer.say(b"still here")
    assert peer.transport.wait(lambda: peer.received, 20)
