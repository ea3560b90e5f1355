"""The manager's pace: under load, rest a moment between cycles, so that batches grow.

A cycle costs much the same for one event as for forty. While the manager rests, writing to it wakes nobody, which is
the larger part of what a write costs. A bus with little to do never rests: its latency is that of two wake-ups.
"""

from __future__ import annotations

import select
import time

from eventbus_mp.geometry import RECORD_BYTES

__all__ = ["BatchDelay"]

WINDOW_NS = 1_000_000
BUSY_BYTES_MIN = 32 * RECORD_BYTES
"""From so many bytes a millisecond on, the manager rests between cycles: 32,000 notified events a second."""
DELAY_S = 200e-6


class BatchDelay:
    def __init__(self) -> None:
        self._busy = False
        self._start_ns = time.monotonic_ns()
        self._bytes = 0

    def count(self, length: int) -> None:
        """So many bytes came in."""
        self._bytes += length

    def wait(self) -> None:
        """Between two cycles: rest, if there is much to do."""
        now_ns = time.monotonic_ns()
        if now_ns - self._start_ns > WINDOW_NS:
            self._busy = self._bytes >= BUSY_BYTES_MIN * (now_ns - self._start_ns) / WINDOW_NS
            self._start_ns, self._bytes = now_ns, 0
        if self._busy:
            select.select((), (), (), DELAY_S)
