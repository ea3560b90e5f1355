"""A background thread runs its function once, wherever an exception interrupts its start."""

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from eventbus_mp.background import BackgroundThread


class Interrupted(Exception):
    """What a signal handler raises."""


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Call it, and raise at one of the steps after which CPython runs signal handlers: the beginning of a function in
    Python, and the return from one in C. Whether there were that many."""
    steps = 0

    def profile(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal steps
        if event in ("call", "c_return"):
            steps += 1
            if steps == step:
                raise Interrupted

    sys.setprofile(profile)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_a_start_that_was_interrupted_anywhere_is_repeated(fork: Callable[..., Any]) -> None:
    """In a child: an interrupted `Event` of CPython may keep its lock, and then a thread that was just starting waits
    for it until its process ends; the second thread runs nevertheless."""

    def work(to_parent: Any) -> None:
        step, counts = 0, []
        runs_of: list[list[int]] = []
        was_interrupted = True
        while was_interrupted:
            step += 1
            runs: list[int] = []
            has_run = threading.Event()

            def run(runs: list[int] = runs, has_run: threading.Event = has_run) -> None:
                runs.append(1)
                has_run.set()

            thread = BackgroundThread(run, "a test's")
            was_interrupted = interrupted_at(step, thread.start)
            thread.start()
            thread.start()
            counts.append(has_run.wait(20))
            thread.join()
            runs_of.append(runs)
        to_parent.send((counts, runs_of))

    has_run, runs = fork(work).hear(60)
    assert all(has_run)
    assert all(each == [1] for each in runs)
    assert len(runs) > 20, "the start of a thread has several steps"


def test_who_is_joined_before_it_runs_never_will() -> None:
    runs: list[int] = []
    thread = BackgroundThread(lambda: runs.append(1), "a test's")
    thread.join()
    thread.start()
    for other in threading.enumerate():
        if other.name == "a test's":
            other.join(20)
    assert not runs


def test_many_that_start_it_at_once_have_one_thread_run() -> None:
    runs: list[int] = []
    begin, release = threading.Barrier(8), threading.Event()

    def run() -> None:
        runs.append(1)
        release.wait(20)

    thread = BackgroundThread(run, "a test's")

    def start() -> None:
        begin.wait(20)
        thread.start()

    starters = [threading.Thread(target=start) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(20)
    release.set()
    thread.join(20)
    assert runs == [1]


def test_it_knows_itself_and_does_not_wait_for_itself() -> None:
    said: list[bool] = []

    def run() -> None:
        thread.join()
        said.append(thread.is_mine)

    thread = BackgroundThread(run, "a test's")
    thread.start()
    for other in threading.enumerate():
        if other.name == "a test's":
            other.join(20)
    assert said == [True]
    assert not thread.is_mine
