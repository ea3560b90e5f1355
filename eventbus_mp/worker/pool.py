"""WorkerPool: processes for CPU-bound handlers.

Started with `multiprocess`, whose dill ships lambdas and closures; nothing else of it is used, and no event ever
passes through it. A worker that dies is replaced, and what it held goes to its siblings.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import dill
import multiprocess
import multiprocess.connection
import multiprocess.process

from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.listeners import listener_of, pack_config
from eventbus_mp.client.sessions import at_end_of_child
from eventbus_mp.client.validation import check_credit, check_patterns, check_retries
from eventbus_mp.errors import EventBusError, UsageError
from eventbus_mp.memory.registered import registered_class, registered_name
from eventbus_mp.statistics import SubscriberKey
from eventbus_mp.worker.worker import READY, HandlerSpec, WorkerLimits, run_worker

__all__ = ["WorkerPool"]

log = logging.getLogger("eventbus_mp")

Function = TypeVar("Function", bound=Callable[..., Any])

FAILED_STARTS_MAX = 5
"""So many workers in a row that die before they are ready end the pool's patience."""
START_TIMEOUT_S = 60.0
RETRY_S = 1.0
"""When a worker could not be started, the next try comes after this long, or when another one dies."""
STOP_TIMEOUT_S = 30.0
STOP_PRIORITY = 1
"""In a child of multiprocessing: before its sessions say goodbye."""


class _HandlerPickler(dill.Pickler):  # type: ignore[misc]
    """Sends registered classes of a program's `__main__` by name: the worker has imported that, and registered its own.

    As values they would be other classes than those that events are decoded to; and dill does not manage an Enum.
    """

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, type) or value.__module__ != "__main__" or not _main_is_importable():
            return NotImplemented
        name = registered_name(value)
        return (registered_class, (name,)) if name is not None else NotImplemented


def _main_is_importable() -> bool:
    return hasattr(sys.modules["__main__"], "__file__")


def _pickled(value: Any) -> bytes:
    file = io.BytesIO()
    _HandlerPickler(file, recurse=True).dump(value)
    return file.getvalue()


class WorkerPool:
    """Processes that share the events of the pool's handlers.

    Handlers added with `on` or `subscribe` run only in the pool's processes, one at a time in each, on its main
    thread. The pool runs between `start` and `stop`, or inside `with`.

    Args:
        bus: The handle that the workers connect with.
        processes: How many; None: one for each CPU.
        start_method: "forkserver" (the default: safe beside threads), "spawn" or "fork". With the first two, a script
            needs its `if __name__ == "__main__":`.
        max_events: A worker leaves after so many events and is replaced; None: it stays.
        max_rss_bytes: A worker leaves when its resident memory is larger; None: it stays.

    Raises:
        UsageError: An argument is outside its range.
    """

    def __init__(
        self,
        bus: EventBus,
        processes: int | None = None,
        *,
        start_method: str = "forkserver",
        max_events: int | None = None,
        max_rss_bytes: int | None = None,
    ) -> None:
        if processes is not None and processes < 1:
            raise UsageError(f"WorkerPool(processes={processes}): a pool needs at least one process")
        if start_method not in multiprocess.get_all_start_methods():
            raise UsageError(f"start_method {start_method!r} is none of {multiprocess.get_all_start_methods()}")
        for name, value in (("max_events", max_events), ("max_rss_bytes", max_rss_bytes)):
            if value is not None and value < 1:
                raise UsageError(f"WorkerPool({name}={value}): give a number over 0, or None")
        self._bus = bus
        self._context = multiprocess.get_context(start_method)
        self._count = processes or len(os.sched_getaffinity(0))
        self._limits = WorkerLimits(max_events, max_rss_bytes)
        self._specs: list[HandlerSpec] = []
        self._payload: Any = None
        self._workers: dict[Any, int] = {}
        """With their pids: whoever asks for these must not look at a worker that the monitor closes just now."""
        self._stopping = False
        self._monitor: threading.Thread | None = None
        self._wake_read, self._wake_write = -1, -1
        self._ending = threading.RLock()
        self._owner_pid = 0
        self.restarts = 0
        """How many workers were replaced."""

    # --- handlers ---

    def on(
        self, *patterns: str, retries: int = 0, name: str | None = None, credit: int | str = "auto"
    ) -> Callable[[Function], Function]:
        """Like `EventBus.on`, for the pool's processes."""
        wanted, times = check_patterns(patterns), check_retries(retries)
        if not wanted:
            raise UsageError("on() needs a pattern: @pool.on('order_.*')")

        def add(function: Function) -> Function:
            key = SubscriberKey(name) if name else listener_of(function).key
            self._add(HandlerSpec(function, key, tuple(wanted), check_credit(credit), times))
            return function

        return add

    def subscribe(self, listener: Any, patterns: Iterable[str], *, credit: int | str = "auto") -> SubscriberKey:
        """Like `EventBus.subscribe`, for the pool's processes."""
        parts = listener_of(listener)
        if parts.call is None:
            raise UsageError(
                f"listener {listener!r} cannot be called; give a callable or something with process(shadow)"
            )
        self._add(HandlerSpec(listener, parts.key, tuple(check_patterns(patterns)), check_credit(credit), None))
        return parts.key

    def _add(self, spec: HandlerSpec) -> None:
        pack_config(spec.key.config)
        if self._workers:
            raise UsageError("add handlers before the pool starts; its processes have begun")
        if any(other.key == spec.key for other in self._specs):
            raise UsageError(
                f"the pool has a handler of subscriber {spec.key.name!r} already, whose place this one would take; "
                "give them names to have both (on(..., name=...))"
            )
        self._specs.append(spec)

    # --- processes ---

    @property
    def pids(self) -> list[int]:
        """The workers that run now; also one that has ended just now, until it is noticed."""
        return list(self._workers.values())

    def start(self) -> None:
        """Start the workers; returns when each has subscribed, so that no event that follows is missed.

        Raises:
            EventBusError: A worker died before it was ready; the others were stopped.
        """
        if self._monitor is not None:
            raise UsageError("the pool is running")
        self._stopping = False
        self._payload = self._serialize()
        self._bus.topics()  # The manager is there before the workers race for it.
        self._wake_read, self._wake_write = os.pipe()
        try:
            started = [self._start_worker() for _ in range(self._count)]
            for worker, ready in started:
                self._await_ready(worker, ready)
        except BaseException:  # also Ctrl-C
            self._end_workers()
            raise
        self._owner_pid = os.getpid()
        atexit.register(self.stop)
        at_end_of_child(self.stop, STOP_PRIORITY)
        self._monitor = threading.Thread(target=self._watch_workers, name="eventbus_mp-pool", daemon=True)
        self._monitor.start()

    def stop(self) -> None:
        """Let each worker finish the event in hand and give the rest back, then end. Harmless when not running.

        The end of the program stops it, too. In a forked child it only forgets the pool, which is the parent's.
        """
        if os.getpid() != self._owner_pid:
            self._monitor, self._workers = None, {}
            return
        with self._ending:
            if self._monitor is None:
                return
            # Whoever is interrupted here can call it again; the end of the program does.
            self._stopping = True
            os.write(self._wake_write, b"s")
            self._monitor.join()
            self._end_workers()
            atexit.unregister(self.stop)
            self._monitor = None

    def __enter__(self) -> WorkerPool:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _serialize(self) -> Any:
        """What a worker gets: a forked one the handlers themselves, any other one their bytes."""
        if self._context.get_start_method() == "fork":
            return self._bus, self._specs
        try:
            # With the globals that a function of `__main__` uses, which a fresh process would not have.
            return _pickled((self._bus, self._specs))
        except Exception as error:
            names = ", ".join(spec.key.name for spec in self._specs)
            raise UsageError(
                f"the handlers ({names}) cannot be sent to a {self._context.get_start_method()} process: {error}; "
                "make what they use importable or picklable, or take start_method='fork'"
            ) from error

    def _start_worker(self) -> tuple[Any, Any]:
        ready, says_ready = self._context.Pipe(duplex=False)
        worker = self._context.Process(
            target=run_worker,
            args=(self._payload, self._limits, says_ready),
            name="eventbus_mp-worker",
            daemon=False,
        )
        try:
            worker.start()
        except BaseException:
            ready.close()
            raise
        finally:
            says_ready.close()
        # multiprocess would look at it whenever another process is started, by whatever thread, and wait for it at the
        # end, also in a forked child. Two that look at once take each other's news for another worker's end.
        multiprocess.process._children.discard(worker)
        self._workers[worker] = worker.pid
        return worker, ready

    def _await_ready(self, worker: Any, ready: Any) -> None:
        """Returns when the worker is up, or when the pool is stopped.

        Raises:
            EventBusError: It died, or is not ready in time.
        """
        with contextlib.closing(ready):
            said = multiprocess.connection.wait([ready, self._wake_read], START_TIMEOUT_S)
            if not said:
                raise EventBusError(f"worker {worker.pid} is not ready after {START_TIMEOUT_S:g} s")
            if ready not in said:
                return
            with contextlib.suppress(EOFError):
                if ready.recv_bytes() == READY:
                    return
        worker.join(STOP_TIMEOUT_S)
        raise EventBusError(
            f"worker {worker.pid} ended with exit code {worker.exitcode} before it was ready; "
            "its own error is above, on the standard error stream"
        )

    def _watch_workers(self) -> None:
        failed_starts = 0
        while not self._stopping:
            sentinels = [worker.sentinel for worker in self._workers]
            missing = self._count - len(self._workers)
            multiprocess.connection.wait([*sentinels, self._wake_read], RETRY_S if missing else None)
            for worker in [worker for worker in self._workers if not worker.is_alive()]:
                self._report(worker)
                self._forget(worker)
            while len(self._workers) < self._count and not self._stopping:
                if self._replace():
                    failed_starts = 0
                    continue
                failed_starts += 1
                if failed_starts >= FAILED_STARTS_MAX:
                    log.critical("%d workers in a row did not come up; the pool gives up", failed_starts)
                    return
                break  # After whoever else died, or a moment.

    def _replace(self) -> bool:
        """Start a worker in the place of one that is gone: whether it came up."""
        try:
            worker, ready = self._start_worker()
            self.restarts += 1
            self._await_ready(worker, ready)
        except Exception as error:  # Whatever it is that keeps a process from being started.
            log.error("a worker cannot be replaced: %s", error)
            return False
        return True

    @staticmethod
    def _report(worker: Any) -> None:
        if worker.exitcode:
            log.warning("worker %d died with exit code %d; another one takes its place", worker.pid, worker.exitcode)

    def _forget(self, worker: Any) -> None:
        del self._workers[worker]
        worker.close()

    def _end_workers(self) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for worker in tuple(self._workers):
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                log.error("worker %d does not end; it is killed", worker.pid)
                worker.kill()
                worker.join()
            self._forget(worker)
        fds, self._wake_read, self._wake_write = (self._wake_read, self._wake_write), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
