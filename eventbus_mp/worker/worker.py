"""The life of one worker process: connect, host the pool's handlers, run them, leave the bus, end.

A worker ends when it receives SIGTERM, when its parent has ended, when it has reached a limit (`max_events`,
`max_rss_bytes`), or when the bus has ended. It finishes the event that its handler is working on, and returns the
deliveries that it has not started, which does not count as an attempt.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dill
import multiprocess

from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.client.session import Session
from eventbus_mp.client.sessions import connect_worker
from eventbus_mp.errors import BusClosed, ManagerLost

__all__ = ["READY", "WorkerLimits", "run_worker"]

log = logging.getLogger("eventbus_mp")

READY = b"ready"
"""What a worker sends to its pool when its handlers are subscribed."""
THREADS_PATIENCE_S = 5.0
"""How long the threads that handlers have started may continue when the worker ends."""
SYSTEM_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class WorkerLimits:
    """After what a worker ends and is replaced: see `WorkerPool`."""

    max_events: int | None
    max_rss_bytes: int | None


def run_worker(payload: bytes | tuple[EventBus, list[HandlerSpec]], limits: WorkerLimits, ready: Any) -> None:
    """The main function of a worker process.

    Args:
        payload: The pool's bus and its handlers; pickled, unless the worker was forked.
        limits: After what it ends.
        ready: The pipe on which it says that its handlers are subscribed.

    Raises:
        SystemExit: The bus has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # A forked worker has its parent's handler, not meant for it.
    bus, specs = dill.loads(payload) if isinstance(payload, bytes) else payload
    session = connect_worker(bus.name, bus.config)
    _wake_at_signals(session)
    signal.signal(signal.SIGTERM, lambda *_: session.loop.stop())
    for spec in specs:
        spec.host(session)
    _leave_with_parent(session)
    try:
        with ready:
            ready.send_bytes(READY)
    except BrokenPipeError:
        session.close()
        return  # The pool was stopped meanwhile, or its process has ended.
    try:
        session.loop.run(_limiter(session, limits))
    except (ManagerLost, BusClosed) as error:
        log.error("worker %d stops: %s", os.getpid(), error)
        _end_threads(1)
        raise SystemExit(1) from None
    session.close()
    _end_threads(0)


def _wake_at_signals(session: Session) -> None:
    """Let a signal end the session's wait.

    Python runs a signal's handler between two steps of the interpreter. If the signal comes just before the wait, the
    handler would run after the wait, which may be a long time.
    """
    woken, wakes = os.pipe()
    for fd in (woken, wakes):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    session.connection.transport.watch(woken, partial(os.read, woken, 4096))


def _leave_with_parent(session: Session) -> None:
    parent = multiprocess.parent_process()
    if parent is None:
        return
    # And not `parent.sentinel`: that is a pipe, and every other child that the parent forks keeps it open.
    try:
        pidfd = os.pidfd_open(parent.pid)
    except ProcessLookupError:
        session.loop.stop()
        return

    def parent_is_gone() -> None:
        session.connection.transport.unwatch(pidfd)
        session.loop.stop()

    session.connection.transport.watch(pidfd, parent_is_gone)


def _end_threads(exit_code: int) -> None:
    """End the process even if threads that handlers have started still run.

    They would keep alive a worker that has left the bus, and the pool could not replace it.
    """
    deadline = time.monotonic() + THREADS_PATIENCE_S
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = ", ".join(thread.name for thread in left if thread.is_alive())
    if names:
        log.error("worker %d ends, and the threads that its handlers have started (%s) end with it", os.getpid(), names)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(exit_code)


def _limiter(session: Session, limits: WorkerLimits) -> Callable[[], None] | None:
    if limits.max_events is None and limits.max_rss_bytes is None:
        return None

    def check() -> None:
        if limits.max_events is not None and session.loop.events_handled >= limits.max_events:
            session.loop.stop()
        if limits.max_rss_bytes is not None and _rss_bytes() > limits.max_rss_bytes:
            session.loop.stop()

    return check


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * SYSTEM_PAGE_BYTES
