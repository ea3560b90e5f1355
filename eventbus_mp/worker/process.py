"""A worker process as its pool sees it: its end, its exit code, and how it is asked to leave.

Its end is learned from its pidfd. A pool that waited for a child would never notice it in a program that ignores
SIGCHLD or that has another `waitpid(-1)`, and the sentinel of multiprocess stays open as long as a child of the worker
lives.

A worker is asked to leave by the end of its lifeline, a pipe of which only the pool's process has the writing end: so
that process need not be alive to ask, and it does not matter what the worker's handlers did with its signals.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import multiprocess.process

from eventbus_mp.lifecycle import ForkStage, after_fork_in_child
from eventbus_mp.worker.running_calls import RunningCalls

__all__ = ["WorkerProcess"]

EXIT_CODE_TIMEOUT_S = 1.0
"""How long the fork server may take to say with which code a worker has ended."""

_lifelines: set[Any] = set()
"""The writing ends of this process's workers. A forked child that kept them would keep the workers as well."""


class WorkerProcess:
    """A worker that has been started.

    Args:
        context: multiprocess's context for the start method.
        target: What it runs; the reading end of its lifeline and its `RunningCalls` come first.
        arguments: What it is called with after that.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, context: Any, target: Any, arguments: tuple[Any, ...]) -> None:
        self.link = 0
        """The number of its link to the bus, when it has said that it is ready."""
        self.limits: list[tuple[int, str, float]] = []
        """(number of the subscriber, its name, seconds) of its handlers with a time limit, as it has said."""
        self.is_leaving = False
        """It was asked to leave."""
        self.calls = RunningCalls()
        lifeline, self._lifeline = context.Pipe(duplex=False)
        _lifelines.add(self._lifeline)
        self._process = context.Process(
            target=target, args=(lifeline, self.calls, *arguments), name="eventbus_mp-worker", daemon=False
        )
        try:
            with _without_a_file_that_is_none():
                self._process.start()
        except BaseException:
            self._let_go()
            raise
        finally:
            lifeline.close()
            self.calls.close()
        # Otherwise multiprocess asks for the exit code of every child whenever any thread starts another process, and
        # waits for them at the end, even in a forked child. Of two threads that ask at once, one gets a wrong answer.
        multiprocess.process._children.discard(self._process)
        self.pid: int = self._process.pid
        self._fd = _end_of(self.pid)

    def fileno(self) -> int:
        """A descriptor that is readable from its end on."""
        return self._fd

    def wait(self, timeout_s: float | None = 0.0) -> bool:
        """Block until it has ended, for `timeout_s` at most (None: as long as it takes): whether it has."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    @property
    def exit_code(self) -> int | None:
        """The exit code of one that has ended; negative: the signal; None: somebody else has taken it."""
        if self._process.exitcode is None and self._process._popen.method == "forkserver":
            self._process.join(EXIT_CODE_TIMEOUT_S)
        code: int | None = self._process.exitcode
        return code

    def ask_to_leave(self) -> None:
        """Have it finish what its handler does, and leave; or end at once if it has not begun. Does not block."""
        self.is_leaving = True
        self._let_go()
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it now; blocks until it has ended."""
        self._send(signal.SIGKILL)
        self.wait(None)

    def close(self) -> None:
        """Let go of one that has ended."""
        self._let_go()
        os.close(self._fd)
        if self.exit_code is None:
            self._process._popen.returncode = 0  # Or it would not be closed, because it might still run.
        self._process.close()

    def _let_go(self) -> None:
        _lifelines.discard(self._lifeline)
        self._lifeline.close()

    def _send(self, number: int) -> None:
        if not self.wait():
            signal.pidfd_send_signal(self._fd, number)


@contextmanager
def _without_a_file_that_is_none() -> Iterator[None]:
    """A program that is read from the standard input says that its file is "<stdin>", which no worker can import."""
    program = vars(sys.modules["__main__"])
    file = program.get("__file__")
    is_none = isinstance(file, str) and file.startswith("<") and program.get("__spec__") is None
    if is_none:
        del program["__file__"]
    try:
        yield
    finally:
        if is_none:
            program["__file__"] = file


def _end_of(pid: int) -> int:
    """A descriptor that is readable from the end of this process on."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:  # It has ended, and SIGCHLD is ignored.
        return os.eventfd(1, os.EFD_CLOEXEC)


def _close_in_child() -> None:
    for lifeline in _lifelines:
        lifeline.close()
    _lifelines.clear()


after_fork_in_child(ForkStage.WORKERS, _close_in_child)
