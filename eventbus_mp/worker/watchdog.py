"""The watchdog of a pool: it kills workers of which a handler has exceeded its time limit.

Before that, it tells the bus for which event, so that no other event of the worker is accused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import EventBusError
from eventbus_mp.protocol.requests import CutOff
from eventbus_mp.worker.process import WorkerProcess
from eventbus_mp.worker.running_calls import RunningCall

__all__ = ["Watchdog"]

log = logging.getLogger("eventbus_mp")

PAUSE_MIN_S = 0.01


class Watchdog:
    """Looks at workers, and ends those of which a call takes too long.

    Args:
        bus: The pool's handle.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def look(self, workers: Iterable[WorkerProcess]) -> float | None:
        """Kill the workers whose time is over, and block until they have ended.

        Returns:
            In how many seconds to look again; None: no handler of these workers has a limit.
        """
        now_ns, due_ns = time.monotonic_ns(), []
        for worker in workers:
            if not worker.limits:
                continue
            calls = worker.calls.running()
            late = [call for call in calls if call.deadline_ns <= now_ns]
            if late:
                if not worker.wait():  # else: it has died by itself, and its page still shows the call
                    self._cut_off(worker, late[0])
                worker.limits = []
            else:
                # What begins after this look is not due before the shortest limit is over.
                next_ns = now_ns + int(min(limit_s for _, _, limit_s in worker.limits) * 1e9)
                due_ns.append(min([next_ns, *(call.deadline_ns for call in calls)]))
        return max((min(due_ns) - now_ns) / 1e9, PAUSE_MIN_S) if due_ns else None

    def _cut_off(self, worker: WorkerProcess, call: RunningCall) -> None:
        subscriber, name, limit_s = worker.limits[call.handler]
        reason = f"exceeded its time limit of {limit_s:g} s"
        try:
            self._bus._ask(CutOff, worker.link, subscriber, call.sequence, reason)
        except EventBusError as error:  # What the worker has comes back all the same, as after any crash.
            log.error("the bus could not be told that the handler of %s %s: %s", name, reason, error)
        log.error("worker %d is killed: the handler of %s %s", worker.pid, name, reason)
        worker.kill()
