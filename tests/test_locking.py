"""Locks that refuse the thread that has them, and one leader that waits for many."""

import gc
import signal
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.locking import LeaderFollowers, NonReentrantLock
from tests.helpers import until


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
    while not turns.followers:
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


class Followers:
    """Threads that follow the calling one, each until it is woken. `woken` has the names of those that were."""

    def __init__(self) -> None:
        self.turns = LeaderFollowers()
        self.turns.take(lambda: False, 0)
        self.woken: SimpleQueue[str] = SimpleQueue()
        self._wanted: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    def add(self, name: str, crew: object = None) -> None:
        def follow() -> None:
            self.turns.take(lambda: self._wanted.get(name, 0), 60, crew)
            self.woken.put(name)

        count = len(self.turns.followers)
        self._threads.append(threading.Thread(target=follow))
        self._threads[-1].start()
        until(lambda: len(self.turns.followers) > count)

    def want(self, **wanted: int) -> None:
        self._wanted = wanted

    def end(self) -> None:
        self.turns.hand_over()
        for thread in self._threads:
            thread.join(20)


def test_only_those_that_are_ready_are_woken() -> None:
    group = Followers()
    for name in ("one", "two", "three"):
        group.add(name)
    group.want(two=1)
    group.turns.leader = 0
    group.turns.hand_over(lambda: False)
    assert group.woken.get(timeout=20) == "two"
    assert len(group.turns.followers) == 2
    group.end()


@pytest.mark.parametrize("wanted", range(5))
@pytest.mark.parametrize("leads", [False, True])
def test_of_a_crew_as_many_are_woken_as_there_is_work_for(wanted: int, leads: bool) -> None:
    """The leader may be one of them, and takes a part of it."""
    group = Followers()
    for _ in range(3):
        group.add("crew", "the crew")
    group.add("another")
    group.want(crew=wanted)
    group.turns.leader = 0
    group.turns.hand_over(lambda: wanted if leads else 0, "the crew" if leads else None)
    left = max(0, min(wanted, 3 + leads) - leads) if wanted else 0
    assert [group.woken.get(timeout=20) for _ in range(left)] == ["crew"] * left
    assert len(group.turns.followers) == 4 - left
    group.end()


def test_one_goes_on_if_nobody_leads() -> None:
    group = Followers()
    group.add("one")
    group.add("two")
    group.turns.pass_on()
    assert len(group.turns.followers) == 2, "there is a leader"
    group.turns.leader = 0
    group.turns.pass_on()
    assert group.woken.get(timeout=20) == "two"
    assert len(group.turns.followers) == 1
    group.end()


def test_a_condition_that_raises_does_so_in_its_own_thread() -> None:
    turns, errors = LeaderFollowers(), SimpleQueue[Exception]()
    turns.take(lambda: False, 0)
    fails = threading.Event()

    def ready() -> bool:
        if fails.is_set():
            raise ZeroDivisionError
        return False

    def follow() -> None:
        turns.take(ready, 60)
        try:
            ready()
        except ZeroDivisionError as error:
            errors.put(error)

    thread = threading.Thread(target=follow)
    thread.start()
    until(lambda: turns.followers)
    fails.set()
    turns.leader = 0
    turns.hand_over(lambda: False)
    assert isinstance(errors.get(timeout=20), ZeroDivisionError)
    thread.join(20)


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
