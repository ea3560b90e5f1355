"""The processes of a pool: started, watched, replaced when they end, restarted one by one, and ended.

While it runs, one thread does all of this: the list of workers and their descriptors are its own. `stop` waits
for that thread first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgpack
import multiprocess.connection

from eventbus_mp.background import BackgroundThread
from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import EventBusError
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.worker.process import WorkerProcess
from eventbus_mp.worker.watchdog import Watchdog
from eventbus_mp.worker.worker import FAILED, INITIALIZED, INITIALIZING, READY, Payload, run_worker

__all__ = ["Supervisor"]

log = logging.getLogger("eventbus_mp")

FAILED_STARTS_MAX = 5
"""The pool gives up when this many workers in a row die before they are ready."""
START_TIMEOUT_S = 60.0
RETRY_S = 1.0
"""If a worker could not be started, the pool tries again after this time, or when another worker dies."""
KILL_AFTER_S = 2.0
"""How long after `stop_timeout_s` a worker is killed: it cuts itself off unless something keeps its interpreter."""

NO_FORK_SERVER = (
    "the fork server of multiprocess, which starts the workers, does not run; its own error was printed on the "
    "standard error stream. If it does not find multiprocess, which may be only where this program looks, as in its "
    "zip file: install it for the interpreter, or give start_method='fork'"
)


def _nothing() -> None:
    """Nobody wants to know."""


class Supervisor:
    """Keeps a number of workers running.

    Args:
        bus: A handle of the bus, for this process.
        context: multiprocess's context for the start method.
        count: How many workers.
        on_give_up: Called by the supervisor's thread when it starts no more workers, because too many have failed.
    """

    def __init__(self, bus: EventBus, context: Any, count: int, on_give_up: Callable[[], object] = _nothing) -> None:
        self._bus = bus
        self.context = context
        self.count = count
        self._on_give_up = on_give_up
        self._watchdog = Watchdog(bus)
        self._payload: Any = None
        self._workers: list[WorkerProcess] = []
        self._old: list[WorkerProcess] = []
        """Those that a restart has yet to replace."""
        self._stopping = False
        self.monitor: BackgroundThread | None = None
        """The thread; None: it is not running."""
        self._wake_read, self._wake_write = -1, -1
        self._restart_fd = -1
        self._ending = NonReentrantLock()
        self.restarts = 0
        """How many workers were replaced."""

    @property
    def has_workers(self) -> bool:
        """Whether workers run, or are being started."""
        return bool(self._workers)

    @property
    def pids(self) -> list[int]:
        """The processes of the workers that run now."""
        return [worker.pid for worker in tuple(self._workers)]

    def start(self, payload: Payload, stop_fd: int | None = None) -> bool:
        """Start the workers, and block until each of them is ready.

        Args:
            payload: What they are to do.
            stop_fd: When this becomes readable first, the workers are stopped, and False is returned.

        Raises:
            EventBusError: A worker died before it was ready, its initializer raised, or it was not ready 60 s after
                that; the others were stopped.
        """
        self._stopping, self._payload, self._old = False, payload, []
        self._wake_read, self._wake_write = os.pipe()
        self._restart_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            started = [self._start_worker() for _ in range(self.count)]
            are_ready = True
            for worker, ready in started:
                are_ready &= self._await_ready(worker, ready, stop_fd)
        except BaseException:  # also Ctrl-C
            self._end_workers()
            raise
        if not are_ready:
            self._end_workers()
            return False
        self.monitor = BackgroundThread(self._watch_workers, "eventbus_mp-pool")
        self.monitor.start()
        return True

    def restart(self) -> None:
        """Replace the workers that run now by new ones, one at a time; does not block.

        Each leaves when its successor is ready. If one cannot be replaced, the rest stay. A restart that is going on
        begins again. Safe in a signal handler.
        """
        os.eventfd_write(self._restart_fd, 1)

    def stop(self) -> bool:
        """Stop the workers, and block until they have ended: whether there was anything to stop.

        If an exception interrupts this, it can be called again.
        """
        with self._ending.held():
            if self.monitor is None:
                return False
            self._stopping = True
            os.write(self._wake_write, b"s")
            self.monitor.join()
            self._end_workers()
            self.monitor = None
            return True

    def kill(self) -> None:
        """Kill the workers, replace none, and block until they have ended; what they had counts as crashed. For a
        `stop` that was interrupted."""
        self._stopping = True
        for worker in tuple(self._workers):
            worker.kill()

    def forget(self) -> None:
        """In a forked child: they are the parent's."""
        self.monitor, self._workers = None, []

    # --- starting one ---

    def _start_worker(self) -> tuple[WorkerProcess, Any]:
        ready, says_ready = self.context.Pipe(duplex=False)
        try:
            worker = WorkerProcess(self.context, run_worker, (self._payload, says_ready))
        except BaseException as error:
            ready.close()
            if isinstance(error, (EOFError, ConnectionError)):
                raise EventBusError(NO_FORK_SERVER) from error
            raise
        finally:
            says_ready.close()
        self._workers.append(worker)
        return worker, ready

    def _await_ready(self, worker: WorkerProcess, ready: Any, stop_fd: int | None = None) -> bool:
        """Return whether the worker is ready; it may not be if the pool is being stopped, or `stop_fd` is readable.

        Raises:
            EventBusError: The worker died, its initializer failed, or it is not ready in time.
        """
        stops = [self._wake_read, *([] if stop_fd is None else [stop_fd])]
        with contextlib.closing(ready):
            timeout_s: float | None = START_TIMEOUT_S
            said = INITIALIZED
            while said in (INITIALIZING, INITIALIZED):
                heard = self._wait([ready, *stops], timeout_s)
                if not heard:
                    raise EventBusError(f"worker {worker.pid} is not ready after {START_TIMEOUT_S:g} s")
                if ready not in heard:
                    return False
                try:
                    said = ready.recv_bytes()
                except EOFError:
                    said = b""
                timeout_s = None if said == INITIALIZING else START_TIMEOUT_S
        if said.startswith(READY):
            worker.link, worker.limits = msgpack.unpackb(said.removeprefix(READY))
            return True
        if said.startswith(FAILED):
            text = said.removeprefix(FAILED).decode(errors="replace")
            raise EventBusError(f"the pool's initializer raised in worker {worker.pid}:\n{text}")
        worker.wait(START_TIMEOUT_S)
        raise EventBusError(
            f"worker {worker.pid} ended with exit code {worker.exit_code} before it was ready; "
            "its own error was printed on the standard error stream"
        )

    # --- watching, in the supervisor's thread ---

    def _watch_workers(self) -> None:
        failed_starts = 0
        while not self._stopping:
            is_missing = len(self._workers) < self.count
            self._wait([*self._workers, self._wake_read, self._restart_fd], RETRY_S if is_missing else None)
            self._forget_ended()
            self._note_restart()
            while len(self._workers) < self.count and not self._stopping:
                if self._start_another():
                    failed_starts = 0
                    continue
                failed_starts += 1
                if failed_starts >= FAILED_STARTS_MAX:
                    log.critical("%d workers in a row did not become ready; the pool gives up", failed_starts)
                    self._on_give_up()
                    return
                break  # Try again after RETRY_S, or when another worker dies.
            self._renew_next()

    def _wait(self, objects: Iterable[Any], timeout_s: float | None) -> list[Any]:
        """As `multiprocess.connection.wait`; meanwhile the watchdog looks at the workers."""
        waited_for, now = list(objects), time.monotonic
        until = None if timeout_s is None else now() + timeout_s
        while True:
            look_s = self._watchdog.look(tuple(self._workers))
            left_s = None if until is None else max(0.0, until - now())
            times_s = [seconds for seconds in (look_s, left_s) if seconds is not None]
            heard: list[Any] = multiprocess.connection.wait(waited_for, min(times_s, default=None))
            if heard or (until is not None and now() >= until):
                return heard

    def _forget_ended(self) -> None:
        for worker in [worker for worker in self._workers if worker.wait()]:
            if worker.exit_code:
                log.warning("worker %d died with exit code %d and is replaced", worker.pid, worker.exit_code)
            self._forget(worker)

    def _start_another(self) -> bool:
        """Start a worker beside the others: whether it became ready."""
        worker = None
        try:
            worker, ready = self._start_worker()
            self.restarts += 1
            self._await_ready(worker, ready)
        except Exception as error:  # Anything can keep a process from being started.
            log.error("a worker cannot be replaced: %s", error)
            if worker is not None:
                worker.ask_to_leave()  # It may wait for threads of its initializer.
            return False
        return True

    def _note_restart(self) -> None:
        try:
            os.eventfd_read(self._restart_fd)
        except BlockingIOError:
            return
        log.info("restarting %d workers, one at a time", len(self._workers))
        self._old = [worker for worker in self._workers if not worker.is_leaving]

    def _renew_next(self) -> None:
        """Replace one of the old workers, unless the one before has not ended yet."""
        if not self._old or self._stopping or any(worker.is_leaving for worker in self._workers):
            return
        if not self._start_another():
            log.error("the restart ends here; %d workers go on with what they have", len(self._old))
            self._old = []
            return
        worker = self._old.pop()
        log.info("worker %d leaves, and worker %d has taken its place", worker.pid, self._workers[-1].pid)
        worker.ask_to_leave()
        if not self._old:
            log.info("all workers are restarted")

    # --- the end ---

    def _forget(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        if worker in self._old:
            self._old.remove(worker)
        worker.close()

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.ask_to_leave()
        timeout_s = self._bus.config.stop_timeout_s
        deadline = time.monotonic() + timeout_s + KILL_AFTER_S
        for worker in tuple(self._workers):
            if not self._wait([worker], max(0.0, deadline - time.monotonic())):
                log.error("worker %d has not ended %g s after stop_timeout_s and is killed", worker.pid, KILL_AFTER_S)
                worker.kill()
            self._forget(worker)
        fds = self._wake_read, self._wake_write, self._restart_fd
        self._wake_read = self._wake_write = self._restart_fd = -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
