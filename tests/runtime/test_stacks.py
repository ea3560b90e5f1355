"""Stacks: a process answers a signal that it alone takes, leaves nothing behind, and nobody is hurt by a question."""

import faulthandler
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from eventbus_mp.runtime import stacks
from eventbus_mp.runtime.stacks import SIGNAL, StackAnswers, stack_of

pytestmark = pytest.mark.skipif(not stacks.ANSWERS, reason="a process of CPython 3.10 does not answer")

ANSWERS = "from eventbus_mp.runtime.stacks import StackAnswers; answers = StackAnswers()\n"
WAITS = "import sys; print('ready', flush=True); sys.stdin.read()"


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def answers() -> Iterator[StackAnswers]:
    opened = StackAnswers()
    yield opened
    opened.close()


def a_child(code: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", code + WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end(child: "subprocess.Popen[str]") -> int:
    child.communicate(timeout=30)
    return child.returncode


def test_a_process_shows_what_it_does() -> None:
    child = a_child(ANSWERS)
    for _ in range(3):  # The file is emptied after each question.
        stack = stack_of(child.pid)
        assert stack is not None
        assert stack.count("most recent call first") == 1
        assert '<string>", line' in stack
        assert stack.startswith("Main thread (most recent call first):\n")
    assert end(child) == 0


def test_every_thread_of_this_process_is_shown(answers: StackAnswers) -> None:
    may_end = threading.Event()

    def waits_here() -> None:
        may_end.wait(30)

    thread = threading.Thread(target=waits_here)
    thread.start()
    stack = stack_of(os.getpid())
    may_end.set()
    thread.join()
    assert stack is not None
    assert "waits_here" in stack
    assert "test_every_thread_of_this_process_is_shown" in stack


BUSY = """
import json, threading
from concurrent.futures import ThreadPoolExecutor

def deep(n):
    return n if not n else deep(n - 1)

def busy():
    while True:
        deep(80)
        json.dumps([{"a": list(range(30))}] * 20)

def churn():
    while True:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(deep, [30] * 8))

for work in (busy, busy, churn):
    threading.Thread(target=work, daemon=True).start()
"""


def test_a_busy_process_of_many_threads_survives_many_questions() -> None:
    """A thread that wrote the stacks of others, which run meanwhile, crashed it within some hundred questions."""
    child = a_child(ANSWERS + BUSY)
    answered = sum(stack_of(child.pid) is not None for _ in range(300))
    assert child.poll() is None
    assert answered
    child.kill()
    child.communicate()


def test_a_process_that_does_not_answer_is_left_alone() -> None:
    """The signal would end it."""
    child = a_child("")
    assert stack_of(child.pid) is None
    assert end(child) == 0


def test_a_process_that_has_closed_its_answers_is_left_alone() -> None:
    child = a_child(ANSWERS + "answers.close()\n")
    assert stack_of(child.pid) is None
    assert end(child) == 0


def test_a_process_that_became_another_program_is_left_alone() -> None:
    code = ANSWERS + f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {WAITS!r}])\n"
    child = a_child(code)
    assert stack_of(child.pid) is None
    assert end(child) == 0


def test_a_stopped_process_is_unknown_in_time() -> None:
    child = a_child(ANSWERS)
    os.kill(child.pid, signal.SIGSTOP)
    assert stack_of(child.pid) is None
    os.kill(child.pid, signal.SIGCONT)
    assert end(child) == 0


def test_a_process_that_is_gone_is_unknown() -> None:
    child = a_child("")
    end(child)
    assert stack_of(child.pid) is None


def test_nothing_is_left_when_the_last_one_closes() -> None:
    before = descriptors()
    first, second = StackAnswers(), StackAnswers()
    first.close()
    first.close()
    assert stack_of(os.getpid()) is not None
    second.close()
    assert descriptors() == before
    assert signal.getsignal(SIGNAL) is signal.SIG_DFL
    assert stack_of(os.getpid()) is None


def test_a_signal_that_somebody_has_stays_his() -> None:
    signal.signal(SIGNAL, lambda *_: None)
    try:
        opened = StackAnswers()
        assert stack_of(os.getpid()) is None
        opened.close()
        assert signal.getsignal(SIGNAL) not in (signal.SIG_DFL, None)
    finally:
        signal.signal(SIGNAL, signal.SIG_DFL)


def test_a_signal_that_is_taken_behind_pythons_back_stays_there() -> None:
    read, write = os.pipe()
    faulthandler.register(SIGNAL, file=write)
    try:
        opened = StackAnswers()
        opened.close()
        signal.raise_signal(SIGNAL)
        assert b"most recent call first" in os.read(read, 10_000)
    finally:
        faulthandler.unregister(SIGNAL)
        os.close(read)
        os.close(write)


def test_a_forked_child_does_not_answer_for_its_parent(answers: StackAnswers) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        answers.abandon()
        opened = StackAnswers()
        own = stack_of(os.getpid())
        os.write(write, b"yes" if own is not None and "test_a_forked_child" in own else b"no")
        opened.close()
        os._exit(0)
    assert os.read(read, 10) == b"yes"
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
    assert stack_of(os.getpid()) is not None
