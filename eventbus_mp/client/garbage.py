"""Garbage that keeps the memory of events: an idle process has it collected, because others may wait for that memory.

An event that is part of a cycle keeps its memory until the garbage collector runs, which it does while a process makes
objects. A handler that raises an exception of one of its own variables makes such a cycle, with all events of its
batch. In a process that then has nothing to do, it would be there for ever.
"""

from __future__ import annotations

import gc

from eventbus_mp.client.reporter import Reporter
from eventbus_mp.client.transport import Transport
from eventbus_mp.memory.leases import LeaseBook

__all__ = ["watch_garbage"]

GARBAGE_MS = 1_000
"""How long after the last large event was read the collector runs."""


class _Garbage:
    """When to collect, and doing it. `views` are counted, so that the collector runs once after the last one."""

    def __init__(self, transport: Transport, leases: LeaseBook, reporter: Reporter) -> None:
        self._transport = transport
        self._leases = leases
        self._reporter = reporter
        self._collected_at = 0
        """How many views there had been when the collector ran."""
        self._since = 0, 0
        """How many views there had been at the last look, and since when."""

    def due_ms(self) -> float | None:
        """In how many milliseconds to collect; None: no view is open that the collector has not looked at."""
        opened = self._leases.opened
        if opened == self._collected_at or not self._leases.open:
            return None
        now_ns = self._transport.monotonic_ns()
        if self._since[0] != opened:
            self._since = opened, now_ns
        return max(0.0, GARBAGE_MS - (now_ns - self._since[1]) / 1e6)

    def collect(self) -> None:
        """Run the collector, and give back what that has freed."""
        self._collected_at = self._leases.opened
        gc.collect()
        self._reporter.release_ended()


def watch_garbage(transport: Transport, leases: LeaseBook, reporter: Reporter) -> None:
    """Have the collector run when this process waits, a while after it has read its last large event."""
    garbage = _Garbage(transport, leases, reporter)
    transport.when_idle(garbage.due_ms, garbage.collect)
