"""A worker service: the workers of one program in the foreground, until a signal comes.

    SIGTERM, SIGINT    take nothing new, finish what runs, hand back the rest, end; the second one ends all at once
    SIGHUP             restart the workers, one at a time, with the code that is there now

Everything else that a signal does is left alone.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

import multiprocess

from eventbus_mp.errors import EventBusError
from eventbus_mp.worker.program import Description, Program, describe
from eventbus_mp.worker.source_changes import SourceChanges
from eventbus_mp.worker.supervisor import Supervisor

__all__ = ["Service"]

log = logging.getLogger("eventbus_mp.service")

STOP, RESTART, GAVE_UP = "stop", "restart", "gave up"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEATED_S = 0.5
"""A second signal within this time is the first one again, sent to the process and to its whole group."""


class _AtOnce(BaseException):
    """The second signal has come."""


class Service:
    """Runs the workers of a program. The process is the service's: it ends after `run`.

    Args:
        program: What to run.
        processes: How many workers; None: as the program says.
        on_ready: Called when the workers are ready, with what the program is and their pids.
        reload_from: Restart the workers when a source file below this directory changes; None: never.
    """

    def __init__(
        self,
        program: Program,
        processes: int | None,
        on_ready: Callable[[Description, list[int]], object],
        reload_from: str | None = None,
    ) -> None:
        self._program = program
        self._processes = processes
        self._on_ready = on_ready
        self._changes = SourceChanges(reload_from, self._ask_restart) if reload_from is not None else None
        # Signal handlers put words in while the same thread waits for them: `SimpleQueue` allows that.
        self._words: SimpleQueue[str] = SimpleQueue()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        """Readable from the first signal on."""
        self._stopped_by: int | None = None
        self._stopped_at = 0.0

    def run(self) -> int:
        """Run until a signal comes, and return the exit code. For the main thread, once.

        Returns:
            0 after a stop in good order; 1 when the workers could not be kept running; 128 and the number of the signal
            after the second one, when the workers were killed.

        Raises:
            UsageError: The program is not there, or its import failed.
            EventBusError: The workers could not be started.
        """
        supervisor: Supervisor | None = None
        try:
            with self._signals():
                described = describe(self._program, self._stop_fd)
                if described is None:
                    return 0
                supervisor = self._supervisor(described)
                return self._supervise(supervisor, described)
        except _AtOnce:
            log.warning("stopping at once: the workers are killed")
            if supervisor is not None:
                supervisor.kill()
            return 128 + (self._stopped_by or 0)
        finally:
            if self._changes is not None:
                self._changes.stop()
            os.close(self._stop_fd)

    def _supervisor(self, described: Description) -> Supervisor:
        context = multiprocess.get_context(described.start_method)
        count = self._processes or described.processes
        return Supervisor(described.bus, context, count, on_give_up=lambda: self._words.put(GAVE_UP))

    def _supervise(self, supervisor: Supervisor, described: Description) -> int:
        described.bus.topics()  # So that the manager runs before the workers race to start it.
        if not supervisor.start(self._program, self._stop_fd):
            log.info("stopped: the workers were not ready")
            return 0
        self._on_ready(described, supervisor.pids)
        if self._changes is not None:
            self._changes.start()
        word = RESTART
        while word == RESTART:
            word = self._words.get()
            if word == RESTART:
                self._restart(supervisor, described)
        if word == STOP:
            log.info("stopping: the workers finish what they do")
        supervisor.stop()
        log.info("stopped")
        return 0 if word == STOP else 1

    def _restart(self, supervisor: Supervisor, described: Description) -> None:
        try:
            now = describe(self._program, self._stop_fd)
        except EventBusError as error:
            log.error("not restarted, the workers go on with what they have: %s", error)
            return
        if now is None:
            return
        before = described.bus.name, described.bus.config, described.start_method
        if (now.bus.name, now.bus.config, now.start_method) != before:
            log.warning("the program's bus, its settings or the start method have changed; that takes a new service")
        supervisor.restart()

    # --- signals ---

    def _ask_restart(self) -> None:
        self._words.put(RESTART)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        signal.signal(signal.SIGHUP, lambda number, frame: self._ask_restart())
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        try:
            yield
        finally:
            _ignore_signals()

    def _on_stop_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._stopped_by is not None:
            if now - self._stopped_at < REPEATED_S:
                return
            self._stopped_by = number
            _ignore_signals()
            raise _AtOnce
        self._stopped_by, self._stopped_at = number, now
        os.eventfd_write(self._stop_fd, 1)
        self._words.put(STOP)


def _ignore_signals() -> None:
    """The service is ending: one that comes now would only change its exit code."""
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
