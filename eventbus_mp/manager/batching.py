"""Under load the manager pauses between cycles, so that batches grow.

A cycle costs much the same for one event as for forty. While the manager pauses, writing to it wakes nobody, which is
the larger part of what a write costs. A bus with little to do never pauses: its latency is that of two wake-ups.
"""

from __future__ import annotations

import select
import time

from eventbus_mp.geometry import RECORD_BYTES

__all__ = ["BatchDelay"]

WINDOW_NS = 1_000_000
BUSY_BYTES_MIN = 32 * RECORD_BYTES
"""From this many bytes a millisecond on, the manager pauses between cycles: 32,000 notified events a second."""
DELAY_S = 200e-6


class BatchDelay:
    """Decides from the traffic of the last millisecond or more whether a pause is worth its latency, and pauses."""

    def __init__(self) -> None:
        self._is_busy = False
        self._start_ns = time.monotonic_ns()
        self._bytes = 0

    def count(self, length: int) -> None:
        """Add bytes that came in."""
        self._bytes += length

    def wait(self) -> None:
        """Between two cycles: pause if the bus is busy."""
        now_ns = time.monotonic_ns()
        if now_ns - self._start_ns > WINDOW_NS:
            self._is_busy = self._bytes >= BUSY_BYTES_MIN * (now_ns - self._start_ns) / WINDOW_NS
            self._start_ns, self._bytes = now_ns, 0
        if self._is_busy:
            select.select((), (), (), DELAY_S)
