"""WorkerPool: processes for CPU-bound handlers.

They are started with `multiprocess`, because its dill can pickle lambdas and closures. Nothing else of it is used, and
no event passes through it. A worker that dies is replaced, and the deliveries that it held go to the other workers.
"""

from __future__ import annotations

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
from eventbus_mp.client.handler_spec import HandlerSpec, handler_decorator
from eventbus_mp.errors import EventBusError, UsageError
from eventbus_mp.lifecycle import ExitStage, at_exit, cancel_at_exit
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.registered import registered_class, registered_name
from eventbus_mp.statistics import SubscriberKey
from eventbus_mp.worker.worker import READY, WorkerLimits, run_worker

__all__ = ["WorkerPool"]

log = logging.getLogger("eventbus_mp")

Function = TypeVar("Function", bound=Callable[..., Any])

FAILED_STARTS_MAX = 5
"""The pool gives up when this many workers in a row die before they are ready."""
START_TIMEOUT_S = 60.0
RETRY_S = 1.0
"""If a worker could not be started, the pool tries again after this time, or when another worker dies."""
STOP_TIMEOUT_S = 30.0


class _HandlerPickler(dill.Pickler):  # type: ignore[misc]
    """Pickles registered classes of the program's `__main__` by name.

    The worker has imported the program and registered its own classes. Pickled by value they would be other classes
    than those that its events are decoded to; and dill cannot pickle an Enum by value.
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

    Handlers that are added with `on` or `subscribe` run only in the pool's processes, on their main threads, and one at
    a time in each process. The pool runs between `start` and `stop`, or inside a `with` block.

    A worker that dies is replaced, and its unsettled deliveries go to the other workers. If five workers in a row die
    before they are ready, the pool logs that and starts no more. Making a pool starts nothing.

    Args:
        bus: The bus; each worker connects with a copy of this handle.
        processes: How many; None: one for each CPU that this process may use.
        start_method: "forkserver" (the default, which is safe beside threads), "spawn" or "fork". With the first two,
            a script needs its `if __name__ == "__main__":`.
        max_events: A worker ends after this many events and is replaced; None: no limit.
        max_rss_bytes: A worker ends when its resident memory is larger, and is replaced; None: no limit.

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
        """Each worker with its pid. A worker that the monitor is closing at this moment cannot be asked for its pid."""
        self._stopping = False
        self._monitor: threading.Thread | None = None
        self._wake_read, self._wake_write = -1, -1
        self._ending = NonReentrantLock()
        self._owner_pid = 0
        self.restarts = 0
        """How many workers were replaced."""

    # --- handlers ---

    def on(
        self, *patterns: str, retries: int = 0, name: str | None = None, credit: int | str = "auto"
    ) -> Callable[[Function], Function]:
        """Decorate a function that the pool's processes call with each event: like `EventBus.on`, but never blocks.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: An argument is not valid, the pool runs already, or it has a handler of this name.
        """
        return handler_decorator(self._host, patterns, retries=retries, name=name, broadcast=False, credit=credit)

    def subscribe(self, listener: Any, patterns: Iterable[str], *, credit: int | str = "auto") -> SubscriberKey:
        """Have the pool's processes call `listener` with shadows: like `EventBus.subscribe`, but never blocks.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: An argument is not valid, the pool runs already, or it has this listener already.
        """
        spec = HandlerSpec.from_listener(listener, patterns, credit=credit)
        self._host(spec)
        return spec.subscriber

    def _host(self, spec: HandlerSpec) -> None:
        if self._workers:
            raise UsageError("add handlers before the pool starts; its processes are running")
        if any(other.key == spec.key for other in self._specs):
            raise UsageError(
                f"the pool already has a handler of subscriber {spec.key.name!r}, which this one would replace; "
                "give them names to have both (on(..., name=...))"
            )
        self._specs.append(spec)

    # --- processes ---

    @property
    def pids(self) -> list[int]:
        """The processes of the workers that run now. One that has just ended is among them until the pool notices."""
        return list(self._workers.values())

    def start(self) -> None:
        """Start the workers, and block until each of them has subscribed its handlers.

        Events that are published after it returns are delivered to the workers.

        Raises:
            EventBusError: A worker died before it was ready, or was not ready after 60 s; the others were stopped.
            UsageError: The pool runs already, or its handlers cannot be pickled; the text names them.
        """
        if self._monitor is not None:
            raise UsageError("the pool is running")
        self._stopping = False
        self._payload = self._serialize()
        self._bus.topics()  # So that the manager runs before the workers race to start it.
        self._wake_read, self._wake_write = os.pipe()
        try:
            started = [self._start_worker() for _ in range(self._count)]
            for worker, ready in started:
                self._await_ready(worker, ready)
        except BaseException:  # also Ctrl-C
            self._end_workers()
            raise
        self._owner_pid = os.getpid()
        at_exit(ExitStage.POOLS, self.stop)
        self._monitor = threading.Thread(target=self._watch_workers, name="eventbus_mp-pool", daemon=True)
        self._monitor.start()

    def stop(self) -> None:
        """Stop the workers, and block until they have ended. Does nothing if the pool is not running.

        Each worker finishes the event that its handler is working on and returns its other deliveries to the bus. One
        that has not ended after 30 s is killed. The end of the program calls this as well. In a forked child it only
        forgets the pool, which is the parent's.
        """
        if os.getpid() != self._owner_pid:
            self._monitor, self._workers = None, {}
            return
        with self._ending.held():
            if self._monitor is None:
                return
            # If an exception interrupts this, it can be called again; the end of the program does so.
            self._stopping = True
            os.write(self._wake_write, b"s")
            self._monitor.join()
            self._end_workers()
            cancel_at_exit(self.stop)
            self._monitor = None

    def __enter__(self) -> WorkerPool:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _serialize(self) -> Any:
        """What a worker gets: the handlers themselves if it is forked, otherwise their bytes."""
        if self._context.get_start_method() == "fork":
            return self._bus, self._specs
        try:
            # With the globals that a function of `__main__` uses, which a fresh process would not have.
            return _pickled((self._bus, self._specs))
        except Exception as error:
            names = ", ".join(spec.key.name for spec in self._specs)
            raise UsageError(
                f"the handlers ({names}) cannot be sent to a {self._context.get_start_method()} process: {error}; "
                "make what they use importable or picklable, or use start_method='fork'"
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
        # Otherwise multiprocess asks for the exit code of every child whenever any thread starts another process, and
        # waits for them at the end, even in a forked child. Of two threads that ask at once, one gets a wrong answer.
        multiprocess.process._children.discard(worker)
        self._workers[worker] = worker.pid
        return worker, ready

    def _await_ready(self, worker: Any, ready: Any) -> None:
        """Return when the worker is ready, or when the pool is being stopped.

        Raises:
            EventBusError: The worker died, or is not ready in time.
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
            "its own error was printed on the standard error stream"
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
                    log.critical("%d workers in a row did not become ready; the pool gives up", failed_starts)
                    return
                break  # Try again after RETRY_S, or when another worker dies.

    def _replace(self) -> bool:
        """Start a worker in the place of one that has ended: whether it became ready."""
        try:
            worker, ready = self._start_worker()
            self.restarts += 1
            self._await_ready(worker, ready)
        except Exception as error:  # Anything can keep a process from being started.
            log.error("a worker cannot be replaced: %s", error)
            return False
        return True

    @staticmethod
    def _report(worker: Any) -> None:
        if worker.exitcode:
            log.warning("worker %d died with exit code %d and is replaced", worker.pid, worker.exitcode)

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
                log.error("worker %d has not ended after %g s and is killed", worker.pid, STOP_TIMEOUT_S)
                worker.kill()
                worker.join()
            self._forget(worker)
        fds, self._wake_read, self._wake_write = (self._wake_read, self._wake_write), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
