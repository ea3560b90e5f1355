"""The watchdog of a pool: it kills workers of which a handler has exceeded its time limit.

Before that, it tells the bus for which events, so that no other event of the worker is accused. The bus may hang, or be
lost at this moment, and the limits hold all the same: a thread of its own tells it, and is waited for for a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial

from eventbus_mp.background import BackgroundThread
from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import EventBusError
from eventbus_mp.protocol.requests import CutOff
from eventbus_mp.worker.process import WorkerProcess
from eventbus_mp.worker.running_calls import RunningCall

__all__ = ["Watchdog"]

log = logging.getLogger("eventbus_mp")

PAUSE_MIN_S = 0.01
TELL_TIMEOUT_S = 1.0

Late = tuple[WorkerProcess, list[RunningCall]]
Report = tuple[int, int, int, str]
"""The fields of a `CutOff`."""


class Watchdog:
    """Looks at workers, and ends those of which a call takes too long.

    Args:
        bus: The pool's handle.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._told = threading.Event()
        """The bus knows of the last change here, or cannot be reached."""
        self._told.set()

    def look(self, workers: Iterable[WorkerProcess]) -> float | None:
        """Kill the workers whose time is over, and block until they have ended; for a second more if the bus hangs.

        Returns:
            In how many seconds to look again; None: no handler of these workers has a limit.
        """
        now_ns, due_ns = time.monotonic_ns(), []
        all_late: list[Late] = []
        for worker in workers:
            if not worker.limits:
                continue
            calls = worker.calls.running()
            late = [call for call in calls if call.deadline_ns <= now_ns]
            if late:
                if not worker.wait():  # else: it has died by itself, and its page still shows the call
                    all_late.append((worker, late))
            else:
                # What begins after this look is not due before the shortest limit is over.
                next_ns = now_ns + int(min(limit_s for _, _, limit_s in worker.limits) * 1e9)
                due_ns.append(min([next_ns, *(call.deadline_ns for call in calls)]))
        if all_late:
            self._cut_off(all_late)
        return max((min(due_ns) - now_ns) / 1e9, PAUSE_MIN_S) if due_ns else None

    def _cut_off(self, all_late: list[Late]) -> None:
        reports: list[Report] = []
        for worker, late in all_late:
            for call in late:
                subscriber, name, limit_s = worker.limits[call.handler]
                reason = f"exceeded its time limit of {limit_s:g} s"
                reports.append((worker.link, subscriber, call.sequence, reason))
                log.error("worker %d is killed: the handler of %s %s", worker.pid, name, reason)
        self._tell_bus(reports)
        for worker, _ in all_late:
            worker.kill()
            worker.limits = []

    def _tell_bus(self, reports: list[Report]) -> None:
        """Have the bus told what to accuse. If it does not hear it in time, what the workers have comes back as after
        any crash."""
        if self._told.is_set():  # else: it still hangs
            self._told.clear()
            try:
                BackgroundThread(partial(self._tell, reports), "eventbus_mp-cut-off").start()
            except RuntimeError as error:  # The system has no thread for it.
                log.error("the bus could not be told why workers are killed: %s", error)
                self._told.set()
        if not self._told.wait(TELL_TIMEOUT_S):
            log.error("the bus does not answer, and does not hear why workers are killed")

    def _tell(self, reports: list[Report]) -> None:
        try:
            for report in reports:
                self._bus._ask(CutOff, *report)
        except EventBusError as error:
            log.error("the bus could not be told why workers are killed: %s", error)
        finally:
            self._told.set()
