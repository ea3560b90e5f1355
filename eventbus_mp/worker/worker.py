"""The life of one worker process: connect, host the pool's subscribers, run them, leave in good order.

It ends when it is told to (SIGTERM), when its parent is gone, when it has done its share (`max_events`,
`max_rss_bytes`), or when the bus is gone. What is in hand is finished; what was not begun goes back uncounted.
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
from eventbus_mp.client.listeners import listener_of
from eventbus_mp.client.session import Session
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.statistics import SubscriberKey

__all__ = ["READY", "HandlerSpec", "WorkerLimits", "run_worker"]

log = logging.getLogger("eventbus_mp")

READY = b"ready"
THREADS_PATIENCE_S = 5.0
"""How long threads that handlers have left may go on when the worker ends."""
SYSTEM_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class HandlerSpec:
    """One handler of a pool, as it is sent to its workers."""

    listener: Any
    key: SubscriberKey
    patterns: tuple[str, ...]
    credit: int
    retries: int | None
    """None: the listener gets shadows and settles itself."""


@dataclass(frozen=True)
class WorkerLimits:
    max_events: int | None
    max_rss_bytes: int | None


def run_worker(payload: bytes | tuple[EventBus, list[HandlerSpec]], limits: WorkerLimits, ready: Any) -> None:
    """The main function of a worker process: `shipped` is the bus and its handlers, `ready` the pipe to say so on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # What a forked one has of its parent is not meant for it.
    bus, specs = dill.loads(payload) if isinstance(payload, bytes) else payload
    session = bus.become_worker()
    _wake_at_signals(session)
    signal.signal(signal.SIGTERM, lambda *_: session.loop.stop())
    for spec in specs:
        _host(session, spec)
    _leave_with_parent(session)
    try:
        with ready:
            ready.send_bytes(READY)
    except BrokenPipeError:
        session.close()
        return  # Nobody waits for it: the pool has been stopped meanwhile, or is gone.
    try:
        session.loop.run(_limiter(session, limits))
    except (ManagerLost, BusClosed) as error:
        log.error("worker %d stops: %s", os.getpid(), error)
        _end_threads(1)
        raise SystemExit(1) from None
    session.close()
    _end_threads(0)


def _wake_at_signals(session: Session) -> None:
    """A handler runs between two steps of the interpreter: if a signal comes just before a wait, after that."""
    woken, wakes = os.pipe()
    for fd in (woken, wakes):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    session.connection.transport.watch(woken, partial(os.read, woken, 4096))


def _host(session: Session, spec: HandlerSpec) -> None:
    endpoint = session.host(spec.key, list(spec.patterns), spec.credit, broadcast=False)
    if spec.retries is None:
        session.listen(session.shadow_handler(endpoint, listener_of(spec.listener)))
    else:
        session.listen(session.event_handler(endpoint, spec.listener, spec.retries))


def _leave_with_parent(session: Session) -> None:
    parent = multiprocess.parent_process()
    if parent is None:
        return
    # Not `parent.sentinel`, a pipe that every other child which the parent forks keeps open.
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
    """What handlers have left running would keep a worker for ever that has left the bus, and its place in the pool."""
    deadline = time.monotonic() + THREADS_PATIENCE_S
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = ", ".join(thread.name for thread in left if thread.is_alive())
    if names:
        log.error("worker %d ends; the threads that its handlers have left (%s) end with it", os.getpid(), names)
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
