"""How a worker leaves: what asks it to, how long what runs may go on, and what it then still ends.

A worker is an ordinary process to its handlers. No thread of ours runs in it while they do (a fork beside a thread
draws a warning), and a child that they fork or start has the signal handlers of an ordinary process, not the worker's.
"""

from __future__ import annotations

import _thread
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident
from types import FrameType
from typing import Any

from eventbus_mp.client.session import Session
from eventbus_mp.lifecycle import ForkStage, after_fork_in_child, around_fork

__all__ = ["Leaving", "become_ordinary", "disregard", "end_children", "end_threads"]

log = logging.getLogger("eventbus_mp")

LIFELINE_SIGNAL = signal.SIGRTMAX - 8
"""What the kernel sends at the end of the lifeline: a real-time signal, of which no use is common."""
OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, LIFELINE_SIGNAL)


class Leaving:
    """Has the worker leave, when it is asked to and from then on as soon as it can.

    Args:
        session: The worker's.
        timeout_s: How long what runs may go on; then it is cut off.
    """

    def __init__(self, session: Session, timeout_s: float) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._has_begun = False

    def begin(self) -> None:
        """Leave after the event that is being handled; safe in a signal handler. Repeated, it does nothing."""
        if self._has_begun:
            return
        self._has_begun = True
        self._session.crews.stop()
        try:
            # Not `threading.Thread`: this may be a signal handler in the middle of starting such a thread.
            _thread.start_new_thread(self._cut_off, ())
        except RuntimeError as error:
            log.warning("worker %d leaves without a limit of time for what still runs: %s", os.getpid(), error)

    def at_signals(self) -> None:
        """Begin at SIGTERM, even if it comes just before a wait."""
        # Python runs a signal handler between two steps of the interpreter. If the signal comes just before the wait,
        # the handler would run after the wait, which may be a long time.
        woken, wakes = os.pipe()
        for fd in (woken, wakes):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self._session.connection.transport.watch(woken, partial(os.read, woken, 4096))
        around_fork(_hold_signals, _release_signals)
        after_fork_in_child(ForkStage.WORKERS, partial(_undo_in_child, wakes))
        signal.signal(signal.SIGTERM, _Handler(self.begin))

    def with_lifeline(self, lifeline: Any) -> None:
        """Begin when the pool has let go of the lifeline, even while a handler runs that never returns."""
        fd = lifeline.fileno()
        signal.signal(LIFELINE_SIGNAL, _Handler(self.begin))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {LIFELINE_SIGNAL})
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, LIFELINE_SIGNAL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        self.when_readable(fd)  # It may have ended before this, and a signal may come to nothing.

    def with_process(self, pid: int) -> None:
        """Begin when this process has ended, if no handler runs: a fork of it that no hook saw keeps the lifeline."""
        try:
            self.when_readable(os.pidfd_open(pid))
        except ProcessLookupError:
            self.begin()

    def when_readable(self, fd: int) -> None:
        transport = self._session.connection.transport

        def begin() -> None:
            transport.unwatch(fd)
            self.begin()

        transport.watch(fd, begin)

    def _cut_off(self) -> None:
        """End the process when its time is over. Unsettled events go back, and no attempt is counted."""
        threading.Event().wait(self._timeout_s)
        handlers = [f"the handler of {name}" for name in self._session.running_handlers]
        threads = [f"thread {thread.name}" for thread in _threads_left()]
        self._session.close(0)
        log.error(
            "worker %d is cut off after stop_timeout_s, %g s, with what still runs in it: %s",
            os.getpid(),
            self._timeout_s,
            ", ".join([*handlers, *threads]) or "a child process that it waits for",
        )
        _flush_streams()
        os._exit(1)


class _Handler:
    """A signal handler, to be known again among those of the user's."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._call()


def become_ordinary() -> None:
    """Take off what a worker has inherited and is not meant for it. For its first line."""
    disregard(signal.SIGINT)  # Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # A forked worker has its parent's handler.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # A worker that was forked knows the children that its parent started by multiprocessing. They are not its own to
    # end or to wait for.
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process._children.difference_update([one for one in process._children if one._parent_pid != os.getpid()])


def disregard(number: signal.Signals) -> None:
    """Do nothing at a signal that reaches the whole process group: the parent decides.

    It is not ignored, which every program that a handler starts would inherit, and it interrupts no system call.
    """
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, _Handler(lambda: None))
        signal.siginterrupt(number, False)


_masks: dict[int, set[int]] = {}
"""Thread -> what it had blocked before it began to fork."""


def _hold_signals() -> None:
    """A child may be sent a signal before it has undone what handles it, and must not lose that."""
    _masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)


def _release_signals() -> None:
    mask = _masks.pop(get_ident(), None)
    if mask is not None:  # else: a fork behind Python's back, before which nothing was held
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _undo_in_child(wakeup_fd: int) -> None:
    """In a process that a handler has forked: it is not a worker, so its signals do what they do anywhere else."""
    for number in OURS:
        if isinstance(signal.getsignal(number), _Handler):  # else: the user has set another one
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    before = signal.set_wakeup_fd(-1)
    if before not in (-1, wakeup_fd):
        signal.set_wakeup_fd(before)
    _release_signals()


def end_threads() -> None:
    """End the threads that handlers have started, as the end of any program does; blocks until they have ended.

    Executors run the jobs that they have, and end. All other threads are waited for.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # multiprocess calls it as well, and it may be called again


def end_children() -> None:
    """Do what the end of any program does for multiprocessing: end its pools and its daemonic children, and wait for
    the others."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._exit_function()


def _threads_left() -> list[threading.Thread]:
    main = threading.main_thread()
    return [thread for thread in threading.enumerate() if not thread.daemon and thread is not main]


def _flush_streams() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
