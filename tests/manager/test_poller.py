"""The poller: what is watched is called when it is ready, nothing else is, and a signal ends the wait."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_mp.manager.poller import Poller


@pytest.fixture
def poller() -> Iterator[Poller]:
    found = Poller()
    yield found
    found.close()


@pytest.fixture
def ready() -> Iterator[list[int]]:
    """Two descriptors that can be read."""
    fds = [os.eventfd(1), os.eventfd(1)]
    yield fds
    for fd in fds:
        os.close(fd)


def test_what_is_ready_is_called_each_time_until_it_is_not_watched(poller: Poller, ready: list[int]) -> None:
    called: list[int] = []
    for fd in ready:
        poller.watch(fd, lambda fd=fd: called.append(fd))  # type: ignore[misc]
    poller.wait(None)
    assert sorted(called) == sorted(ready)
    poller.unwatch(ready[0])
    poller.wait(None)
    assert called[2:] == [ready[1]]
    os.eventfd_read(ready[1])
    poller.wait(0)
    assert len(called) == 3


def test_room_to_write_is_watched_only_if_that_is_wanted(poller: Poller) -> None:
    reader, writer = os.pipe()
    called: list[str] = []
    poller.watch(writer, lambda: called.append("room"), select.EPOLLOUT)
    poller.wait(None)
    assert called == ["room"]
    poller.unwatch(writer)
    os.close(reader)
    os.close(writer)


def test_a_callback_may_end_the_watch_of_another_that_is_ready_too(poller: Poller, ready: list[int]) -> None:
    called: list[int] = []

    def end_the_other(own: int, other: int) -> None:
        called.append(own)
        poller.unwatch(other)

    poller.watch(ready[0], lambda: end_the_other(ready[0], ready[1]))
    poller.watch(ready[1], lambda: end_the_other(ready[1], ready[0]))
    poller.wait(None)
    assert len(called) == 1


def test_a_new_descriptor_with_the_number_of_one_that_was_ready_is_not_called(poller: Poller) -> None:
    called: list[str] = []
    numbers = [os.eventfd(1), os.eventfd(1)]

    def replace(other: int) -> None:
        poller.unwatch(other)
        os.close(other)
        again = os.eventfd(0)
        assert again == other
        poller.watch(again, lambda: called.append("new"))
        called.append("old")

    poller.watch(numbers[0], lambda: replace(numbers[1]))
    poller.watch(numbers[1], lambda: replace(numbers[0]))
    poller.wait(None)
    assert called == ["old"]
    for fd in numbers:
        poller.unwatch(fd)
        os.close(fd)


@pytest.mark.parametrize("late_ns", [0, 5_000_000_000])
def test_what_is_due_or_late_ends_the_wait(poller: Poller, late_ns: int) -> None:
    poller.wait(time.monotonic_ns() - late_ns)


def test_what_is_due_soon_is_waited_for(poller: Poller) -> None:
    due_ns = time.monotonic_ns() + 20_000_000
    poller.wait(due_ns)
    assert time.monotonic_ns() >= due_ns - 1_000_000  # epoll counts milliseconds.


def test_what_is_due_after_longer_than_epoll_can_wait_is_waited_for(poller: Poller, ready: list[int]) -> None:
    called: list[int] = []
    poller.watch(ready[0], lambda: called.append(1))
    poller.wait(1 << 62)
    assert called == [1]


def test_a_signal_that_came_before_the_wait_ends_it(poller: Poller) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    try:
        for _ in range(2):
            signal.raise_signal(signal.SIGUSR1)
            poller.wait(None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1] * 2


def test_opened_again_it_watches_nothing_of_before(poller: Poller, ready: list[int]) -> None:
    """As in a standby, which closes its copy and takes over later."""
    called: list[str] = []
    poller.watch(ready[0], lambda: called.append("before"))
    poller.close()
    poller.open()
    poller.watch(ready[1], lambda: called.append("now"))
    poller.wait(None)
    assert called == ["now"]


def test_a_copy_that_a_fork_made_is_closed_without_an_effect_on_the_other(
    poller: Poller, ready: list[int], fork: Callable[..., Any]
) -> None:
    called: list[int] = []
    poller.watch(ready[0], lambda: called.append(1))

    def close(to_parent: Any) -> None:
        poller.close()
        to_parent.send("closed")

    child = fork(close)
    assert child.hear() == "closed"
    assert child.wait() == 0
    poller.wait(None)
    assert called == [1]
