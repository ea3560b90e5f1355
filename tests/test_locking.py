"""Locks that refuse the thread that has them, and one leader that waits for many."""

import gc
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.locking import LeaderFollowers, NonReentrantLock


class Alarm(Exception):
    """What a signal handler raises."""


@pytest.fixture
def on_signal() -> Iterator[Any]:
    """Sets the handler of SIGUSR1; the one before comes back."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, lambda *_: handler())
    signal.signal(signal.SIGUSR1, before)


def is_free(lock: NonReentrantLock) -> bool:
    """Whether another thread gets it at once."""
    found: list[bool] = []

    def try_it() -> None:
        found.append(lock.raw.acquire(blocking=False))
        if found[0]:
            lock.raw.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join(20)
    return found == [True]


def test_a_lock_keeps_other_threads_out() -> None:
    lock = NonReentrantLock()
    with lock.held():
        assert lock.is_mine
        assert not is_free(lock)
    assert not lock.is_mine
    assert is_free(lock)


def test_a_lock_refuses_its_holder() -> None:
    lock = NonReentrantLock()
    with lock.held(), pytest.raises(UsageError, match="in the middle of another of its calls"), lock.held():
        pass
    assert is_free(lock)


def test_a_signal_handler_is_refused_and_does_not_hang(on_signal: Any) -> None:
    lock, refused = NonReentrantLock(), []

    def handler() -> None:
        try:
            with lock.held():
                raise AssertionError("the handler got a lock that its thread holds")
        except UsageError as error:
            refused.append(error)

    on_signal(handler)
    with lock.held():
        signal.raise_signal(signal.SIGUSR1)
    assert len(refused) == 1


def test_an_exception_inside_leaves_it_free() -> None:
    lock = NonReentrantLock()
    with pytest.raises(Alarm), lock.held():
        raise Alarm
    assert is_free(lock)


def test_a_handler_that_raises_at_any_step_leaves_it_free(on_signal: Any) -> None:
    """An alarm that comes at a random step of taking and giving back, thousands of times."""
    lock = NonReentrantLock()
    entered = 0

    def handler() -> None:
        raise Alarm

    def take() -> None:
        nonlocal entered
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        while True:
            with lock.held():
                entered += 1

    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        for _ in range(200):
            with pytest.raises(Alarm):
                take()
            gc.collect(0)
            assert not lock.is_mine
            assert is_free(lock)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert entered


def test_a_lock_that_is_reset_is_free() -> None:
    """As in a forked child, whose parent had a thread with the lock."""
    lock = NonReentrantLock()
    with lock.held():
        held = lock.raw
        lock.reset()
        assert lock.raw is not held
        assert is_free(lock)


def follow_until_handed_over(turns: LeaderFollowers, thread: threading.Thread, done: threading.Event) -> None:
    """`thread` is a follower, and is done only when the leader has handed over."""
    while not turns._followers:
        thread.join(0.001)
    assert not done.is_set()
    turns.leader = 0
    turns.hand_over()
    assert done.wait(20)
    thread.join(20)


def test_the_first_leads_and_the_others_wait_their_turn() -> None:
    turns = LeaderFollowers()
    turns.take(lambda: False, 0)
    assert turns.is_mine
    waited = threading.Event()

    def follow() -> None:
        turns.take(lambda: False, 20)
        waited.set()

    thread = threading.Thread(target=follow)
    thread.start()
    follow_until_handed_over(turns, thread, waited)
    assert not turns.is_mine


def test_a_follower_that_is_ready_does_not_wait() -> None:
    turns = LeaderFollowers()
    turns.take(lambda: False, 0)
    looked: list[bool] = []

    def follow() -> None:
        turns.take(lambda: looked.append(True) or True, None)  # type: ignore[func-returns-value]

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert looked == [True]


def test_closing_waits_for_the_leader() -> None:
    turns, ended = LeaderFollowers(), threading.Event()
    turns.take(lambda: False, 0)
    thread = threading.Thread(target=lambda: turns.close(ended.set))
    thread.start()
    follow_until_handed_over(turns, thread, ended)


def test_a_leader_does_not_wait_for_itself() -> None:
    """`close` from a signal handler in the middle of the leader's wait."""
    turns, ended = LeaderFollowers(), threading.Event()
    turns.take(lambda: False, 0)
    assert not turns.close(ended.set)
    assert not ended.is_set()
