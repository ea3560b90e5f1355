"""EventSource: its clock, which every thread and every signal handler may ask for the time."""

import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from eventbus_mp import EventBus, EventSource


@pytest.fixture
def source() -> EventSource:
    """A source whose bus is never connected to."""
    return EventSource(EventBus("never-used", time_unit="nanosecond"), "a")


def test_a_signals_handler_that_comes_while_the_clock_is_read_gets_a_time(
    source: EventSource, fork: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(to_parent: Any) -> None:
        times = []
        signal.signal(signal.SIGUSR1, lambda *_: times.append(source.now()))
        time_ns = time.time_ns

        def interrupted_time_ns() -> int:
            monkeypatch.setattr(time, "time_ns", time_ns)
            signal.raise_signal(signal.SIGUSR1)
            return time_ns()

        monkeypatch.setattr(time, "time_ns", interrupted_time_ns)
        times.append(source.now())
        times.append(source.now())
        to_parent.send(times)

    times = fork(work).hear()
    assert len(times) == 3
    assert times == sorted(times)


def test_the_time_never_goes_back(source: EventSource, monkeypatch: pytest.MonkeyPatch) -> None:
    before = source.now()
    monkeypatch.setattr(time, "time_ns", lambda: before - 10**9)
    assert source.now() == before
    monkeypatch.undo()
    assert source.now() >= before


def test_the_time_goes_back_in_no_thread(source: EventSource) -> None:
    """Each round begins after the one before has ended in all threads, so its times are not earlier."""
    rounds: list[list[int]] = [[] for _ in range(200)]
    barrier = threading.Barrier(4)

    def take() -> None:
        for found in rounds:
            barrier.wait()
            found.extend([source.now() for _ in range(20)])
            barrier.wait()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(max(one) <= min(next_one) for one, next_one in pairwise(rounds))


def test_a_forked_child_has_a_clock(source: EventSource, fork: Callable[..., Any]) -> None:
    before = source.now()
    child = fork(lambda to_parent: to_parent.send((os.getpid(), source.now())))
    pid, after = child.hear()
    assert pid == child.pid
    assert after >= before
