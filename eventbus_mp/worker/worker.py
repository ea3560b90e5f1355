"""The life of one worker process: initialize, connect, host the pool's handlers, run them, finalize, leave, end.

A worker ends when it receives SIGTERM, when its parent has ended, when it has reached a limit (`max_events`,
`max_rss_bytes`), or when the bus has ended. It finishes the event that its handler is working on, and returns the
deliveries that it has not started, which does not count as an attempt.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgpack
import multiprocess

from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.client.hooks import InstrumentSource
from eventbus_mp.client.plain_calls import refuse_unrun
from eventbus_mp.client.session import Session
from eventbus_mp.client.sessions import become_worker, worker_session
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.worker.leaving import Leaving, become_ordinary, end_children, end_threads
from eventbus_mp.worker.running_calls import LimitedCall, RunningCalls
from eventbus_mp.worker.shipment import Shipment, unpack

__all__ = [
    "FAILED",
    "INITIALIZED",
    "INITIALIZING",
    "READY",
    "Payload",
    "TaskSource",
    "WorkerLimits",
    "WorkerTask",
    "failure_text",
    "run_worker",
]

log = logging.getLogger("eventbus_mp")

INITIALIZING, INITIALIZED = b"initializing", b"initialized"
"""What a worker sends to its pool before and after it runs the initializer, which may take its time."""
FAILED = b"failed: "
"""What it sends, with the traceback, when the initializer has raised."""
READY = b"ready"
"""What it sends when its handlers are subscribed, with the number of its link and its time limits."""
FAILURE_CHARACTERS_MAX = 8000
SYSTEM_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class WorkerLimits:
    """After what a worker ends and is replaced: see `WorkerPool`."""

    max_events: int | None = None
    max_rss_bytes: int | None = None


@dataclass
class WorkerTask:
    """What a worker is to do, as it is sent to it."""

    bus: EventBus
    specs: list[HandlerSpec]
    instruments: tuple[InstrumentSource, ...] = ()
    """Those of the bus, which does not take them along when it is pickled."""
    initializer: Callable[[], object] | None = None
    finalizer: Callable[[], object] | None = None
    limits: WorkerLimits = WorkerLimits()


class TaskSource(Protocol):
    """What makes a worker's task in the worker itself."""

    def task(self) -> WorkerTask:
        """The task."""


Payload = Shipment | WorkerTask | TaskSource


def run_worker(lifeline: Any, calls: RunningCalls, payload: Payload, ready: Any) -> None:
    """The main function of a worker process.

    Args:
        lifeline: The pipe that ends when the pool lets go of the worker, or the pool's process ends.
        calls: Where the pool sees calls of handlers with a time limit.
        payload: What it is to do, or where it gets that from.
        ready: The pipe on which it says how far it is: see `READY` and those before it.

    Raises:
        SystemExit: The bus has ended, or the initializer has failed.
    """
    become_ordinary()
    calls.close()
    task = _task_of(payload)
    become_worker(task.bus.name, task.bus.config, task.bus._topics, task.instruments)
    if task.initializer is not None:
        _initialize(task.initializer, ready)
    exit_code = 0
    try:
        _serve(task, lifeline, calls, ready)
    except (ManagerLost, BusClosed) as error:
        log.error("worker %d stops: %s", os.getpid(), error)
        exit_code = 1
    end_children()
    if exit_code:
        raise SystemExit(exit_code)


def _task_of(payload: Payload) -> WorkerTask:
    if isinstance(payload, WorkerTask):
        return payload
    task: WorkerTask = unpack(payload) if isinstance(payload, Shipment) else payload.task()
    return task


def _initialize(initializer: Callable[[], object], ready: Any) -> None:
    """Run the pool's initializer, and tell the pool when it fails.

    Raises:
        SystemExit: It failed.
    """
    with suppress(BrokenPipeError):  # The pool is gone, as will be seen soon enough.
        ready.send_bytes(INITIALIZING)
    try:
        refuse_unrun(initializer())
    except BaseException:
        with suppress(BrokenPipeError), ready:
            ready.send_bytes(FAILED + failure_text().encode(errors="backslashreplace"))
        raise SystemExit(1) from None
    with suppress(BrokenPipeError):
        ready.send_bytes(INITIALIZED)


def failure_text() -> str:
    """The traceback of the exception that is being handled, or the end of it."""
    return traceback.format_exc()[-FAILURE_CHARACTERS_MAX:].rstrip()


def _serve(task: WorkerTask, lifeline: Any, calls: RunningCalls, ready: Any) -> None:
    """Host the handlers and run them until the worker is to end; then leave the bus.

    Raises:
        ManagerLost, BusClosed: The bus has ended.
    """
    try:
        session = worker_session(task.bus.name, task.bus.config.run_dir)
    except BaseException:
        _finalize(task)
        raise
    assert session is not None
    leaving = Leaving(session, task.bus.config.stop_timeout_s)
    try:
        leaving.at_signals()
        _limit(session, leaving, task.limits)
        limits = _host(task, session, calls)
        leaving.with_lifeline(lifeline)
        parent = multiprocess.parent_process()
        if parent is not None:
            leaving.with_process(parent.pid)
        try:
            with ready:
                ready.send_bytes(READY + msgpack.packb([session.connection.welcome.link, limits]))
        except BrokenPipeError:
            leaving.begin()  # The pool was stopped meanwhile, or its process has ended.
        session.loop.run()
    finally:
        leaving.begin()
        session.crews.join()
        _finalize(task)
        _hand_back(session)
        end_threads()  # What executors still have to do may use the bus.
        session.close()


def _host(task: WorkerTask, session: Session, calls: RunningCalls) -> list[tuple[int, str, float]]:
    """Subscribe the handlers; (number of the subscriber, its name, seconds) of each that has a time limit."""
    limits: list[tuple[int, str, float]] = []
    for spec in task.specs:
        if spec.time_limit_s is None:
            spec.host(session)
        else:
            spec.host(session, partial(_limited, calls, limits, spec.key.name, spec.time_limit_s))
    return limits


def _limited(
    calls: RunningCalls,
    limits: list[tuple[int, str, float]],
    name: str,
    limit_s: float,
    endpoint: ClientEndpoint,
    call: Callable[..., Any],
) -> LimitedCall:
    limits.append((endpoint.number, name, limit_s))
    return LimitedCall(calls, len(limits) - 1, limit_s, call)


def _hand_back(session: Session) -> None:
    """Have other processes get the events that this one does not come to, but for those that a listener has taken."""
    try:
        for endpoint in session.endpoints():
            if not endpoint.in_flight:
                session.drop(endpoint)
    except (ManagerLost, BusClosed):
        return  # It has them.


def _finalize(task: WorkerTask) -> None:
    if task.finalizer is None:
        return
    try:
        refuse_unrun(task.finalizer())
    except BaseException as error:  # The worker leaves the bus in good order all the same.
        log.error("the finalizer of worker %d raised", os.getpid(), exc_info=error)


def _limit(session: Session, leaving: Leaving, limits: WorkerLimits) -> None:
    """Leave when a limit is reached."""
    crews = session.crews

    def check() -> None:
        if limits.max_events is not None and sum(loop.events_handled for loop in crews.loops) >= limits.max_events:
            leaving.begin()
        if limits.max_rss_bytes is not None and _rss_bytes() > limits.max_rss_bytes:
            leaving.begin()

    if limits.max_events is not None or limits.max_rss_bytes is not None:
        crews.call_after_each(check)


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * SYSTEM_PAGE_BYTES
