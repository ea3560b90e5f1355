"""WorkerPool: processes for CPU-bound handlers.

They are started with `multiprocess`, because its dill can pickle lambdas and closures. Nothing else of it is used, and
no event passes through it. A worker that dies is replaced, and the deliveries that it held go to the other workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import multiprocess

from eventbus_mp.arguments import as_int
from eventbus_mp.client import sessions
from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.handler_spec import HandlerSpec, handler_decorator
from eventbus_mp.client.plain_calls import check_runs
from eventbus_mp.client.retries import RETRY_DELAY_MAX_S, Retries
from eventbus_mp.client.validation import check_backlog
from eventbus_mp.errors import UsageError
from eventbus_mp.lifecycle import ExitStage, at_exit, cancel_at_exit
from eventbus_mp.runtime.greenlets import uses_greenlets
from eventbus_mp.runtime.interpreter import is_frozen
from eventbus_mp.statistics import SubscriberKey
from eventbus_mp.worker.shipment import pack
from eventbus_mp.worker.supervisor import Supervisor
from eventbus_mp.worker.worker import Payload, WorkerLimits, WorkerTask

__all__ = ["WorkerPool"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _checked_count(name: str, value: int | None, advice: str) -> int | None:
    count = as_int(value)
    if value is not None and (count is None or count < 1):
        raise UsageError(f"WorkerPool({name}={value!r}): {advice}")
    return count


def _culprit(task: WorkerTask) -> str:
    """The part of a task that cannot be pickled, for the error."""
    parts = {
        "the initializer": task.initializer,
        "the finalizer": task.finalizer,
        "the bus's instruments": task.instruments,
    }
    for name, part in parts.items():
        try:
            pack(part)
        except Exception:
            return name
    return f"the handlers ({', '.join(spec.key.name for spec in task.specs)})"


class WorkerPool:
    """Processes that share the events of the pool's handlers.

    Handlers that are added with `on` or `subscribe` run only in the pool's processes, on their main threads, and one at
    a time in each process; those with `threads` have threads of their own there. The pool runs between `start` and
    `stop`, or inside a `with` block.

    A worker that dies is replaced, and its unsettled deliveries go to the other workers. If five workers in a row die
    before they are ready, the pool logs that and starts no more. Making a pool starts nothing.

    Args:
        bus: The bus; each worker connects with a copy of this handle.
        processes: How many; None: one for each CPU that this process may use.
        start_method: "forkserver" (the default, which is safe beside threads), "spawn" or "fork". With the first two,
            a script needs its `if __name__ == "__main__":`. A frozen program (PyInstaller) has only "fork".
        max_events: A worker ends after this many events and is replaced; None: no limit.
        max_rss_bytes: A worker ends when its resident memory is larger, and is replaced; None: no limit.
        initializer: Called once in each worker, before it connects and subscribes; it may use the bus, and take its
            time. If it raises, the worker ends: `start` raises, and a worker that replaces another one is tried five
            times in all.
        finalizer: Called once in each worker, after its last event and before it leaves the bus; not in one that is
            killed. An error that it raises is logged.

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
        initializer: Callable[[], object] | None = None,
        finalizer: Callable[[], object] | None = None,
    ) -> None:
        processes = _checked_count("processes", processes, "a pool needs at least one process")
        if start_method not in multiprocess.get_all_start_methods():
            raise UsageError(f"start_method {start_method!r} is not one of {multiprocess.get_all_start_methods()}")
        if is_frozen() and start_method != "fork":
            raise UsageError(
                f"start_method {start_method!r} starts a Python, which this program, because it is frozen, is not; "
                "give start_method='fork'"
            )
        max_events = _checked_count("max_events", max_events, "give a whole number over 0, or None")
        max_rss_bytes = _checked_count("max_rss_bytes", max_rss_bytes, "give a whole number over 0, or None")
        for name, function in (("initializer", initializer), ("finalizer", finalizer)):
            if function is not None and not callable(function):
                raise UsageError(f"WorkerPool({name}={function!r}): give a function without arguments, or None")
            check_runs(name, function)
        self.bus = bus
        self._initializer, self._finalizer = initializer, finalizer
        self.start_method = start_method
        self.processes = processes or len(os.sched_getaffinity(0))
        self._supervisor = Supervisor(bus, multiprocess.get_context(start_method), self.processes)
        self._limits = WorkerLimits(max_events, max_rss_bytes)
        self._specs: list[HandlerSpec] = []
        self._owner_pid = 0

    # --- handlers ---

    def on(
        self,
        *patterns: str,
        retries: int = 0,
        retry_delay_s: float = 0.0,
        retry_delay_max_s: float = RETRY_DELAY_MAX_S,
        name: str | None = None,
        credit: int | str = "auto",
        batch: int | None = None,
        within_s: float | None = None,
        threads: int = 1,
        time_limit_s: float | None = None,
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> Callable[[Function], Function]:
        """Decorate a function that the pool's processes call with each event: like `EventBus.on`, but never blocks.

        Args:
            patterns, retries, retry_delay_s, retry_delay_max_s, name, credit, batch, within_s, threads, scope,
                backlog_max, backlog_bytes_max, when_full: See `EventBus.on`.
            time_limit_s: How many seconds a call may take; None: as long as it likes. The pool kills the process of a
                call that takes longer, whatever it does, and replaces it. For the call's event that counts as a crash:
                it comes again, alone, until it was tried `crashes_max` times, and is skipped then with the reason
                "exceeded its time limit of N s at attempt M". Of a batch, each event counts. The other deliveries of
                the process come again uncounted. Immediate `retries` are calls of their own.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: An argument is not valid, the pool runs already, or it has a handler of this name.
        """
        return handler_decorator(
            self._host,
            patterns,
            retries=Retries(retries, retry_delay_s, retry_delay_max_s),
            name=name,
            broadcast=False,
            credit=credit,
            batch=batch,
            within_s=within_s,
            threads=threads,
            time_limit_s=time_limit_s,
            scope=scope,
            bound=check_backlog(backlog_max, backlog_bytes_max, when_full),
        )

    def subscribe(
        self,
        listener: Any,
        patterns: Iterable[str],
        *,
        credit: int | str = "auto",
        threads: int = 1,
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> SubscriberKey:
        """Have the pool's processes call `listener` with shadows: like `EventBus.subscribe`, but never blocks.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: An argument is not valid, the pool runs already, or it has this listener already.
        """
        bound = check_backlog(backlog_max, backlog_bytes_max, when_full)
        spec = HandlerSpec.from_listener(listener, patterns, credit=credit, threads=threads, scope=scope, bound=bound)
        self._host(spec)
        return spec.key

    def _host(self, spec: HandlerSpec) -> None:
        if self._supervisor.has_workers:
            raise UsageError("add handlers before the pool starts; its processes are running")
        if any(other.key == spec.key for other in self._specs):
            raise UsageError(
                f"the pool already has a handler of subscriber {spec.key.name!r}, which this one would replace; "
                "give them names to have both (on(..., name=...))"
            )
        self._specs.append(spec)

    @property
    def specs(self) -> tuple[HandlerSpec, ...]:
        """What its workers run; for `TestBus.run_pool`."""
        return tuple(self._specs)

    # --- processes ---

    @property
    def pids(self) -> list[int]:
        """The processes of the workers that run now. One that has just ended is among them until the pool notices."""
        return self._supervisor.pids

    @property
    def restarts(self) -> int:
        """How many workers were replaced."""
        return self._supervisor.restarts

    def start(self) -> None:
        """Start the workers, and block until each of them has subscribed its handlers.

        Events that are published after it returns are delivered to the workers.

        Raises:
            EventBusError: A worker died before it was ready, its initializer raised, or it was not ready 60 s after
                that; the others were stopped.
            UsageError: The pool runs already, or something cannot be pickled, which the text names; or its bus is a
                TestBus; or gevent has patched this process.
        """
        if self.is_running:
            raise UsageError("the pool is running")
        if sessions.is_in_process(self.bus.name):
            raise UsageError(
                f"bus {self.bus.name!r} is a TestBus, which other processes cannot use; give it the pool: "
                "TestBus.run_pool(pool)"
            )
        if uses_greenlets():
            raise UsageError(
                "a WorkerPool cannot be started in a process that gevent has patched, as a forked worker would go on "
                "with its greenlets and a fork server hangs; start it in a program of its own without gevent, which "
                "the bus reaches from here"
            )
        payload = self._serialize()
        self.bus.topics()  # So that the manager runs before the workers race to start it.
        self._supervisor.start(payload)
        self._owner_pid = os.getpid()
        at_exit(ExitStage.POOLS, self.stop)

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._supervisor.monitor is not None

    def restart(self) -> None:
        """Replace the workers that run now by new ones, one at a time. Does not block.

        A new worker starts and subscribes; then an old one finishes the event that its handler is working on, returns
        its other deliveries to the bus, and leaves. If a new one does not become ready, that is logged, and the old
        ones that are left stay. Calling it again meanwhile begins again.

        Raises:
            UsageError: The pool is not running.
        """
        if not self.is_running:
            raise UsageError("the pool is not running; start it")
        self._supervisor.restart()

    def stop(self) -> None:
        """Stop the workers, and block until they have ended. Does nothing if the pool is not running.

        Each worker finishes the event that its handler is working on and returns its other deliveries to the bus. What
        still runs after `stop_timeout_s` is cut off, which is logged; its event goes back to the bus as well. The end
        of the program calls this as well. In a forked child it only forgets the pool, which is the parent's.
        """
        if os.getpid() != self._owner_pid:
            self._supervisor.forget()
        elif self._supervisor.stop():
            cancel_at_exit(self.stop)

    def __enter__(self) -> WorkerPool:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _task(self) -> WorkerTask:
        """What each worker is to do."""
        return WorkerTask(
            self.bus, self._specs, self.bus._instruments, self._initializer, self._finalizer, self._limits
        )

    def _serialize(self) -> Payload:
        """What a worker gets: its task itself if it is forked, otherwise a shipment of it."""
        task, method = self._task(), self.start_method
        if method == "fork":
            return task
        try:
            return pack(task)
        except Exception as error:
            raise UsageError(
                f"{_culprit(task)} cannot be sent to a {method} process: {error}; "
                "make what is used there importable or picklable, or use start_method='fork'"
            ) from error
