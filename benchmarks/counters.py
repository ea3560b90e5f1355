"""The cheapest acknowledgement there is, for peers that have none of their own.

Each consumer process has a file of 16 bytes that it maps and only it writes: how many events it has handled, and the
sum of their numbers. The benchmark maps them all and looks every half a millisecond. A count that is a moment old is
fine: it only grows, and the last one is what is waited for.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

from eventbus_mp.bench.interface import Rig

__all__ = ["Counter", "Counters", "CountingRig"]

PREFIX = "handled-"
BYTES = 16
LOOK_INTERVAL_S = 0.0005


class Counter:
    """This process's own."""

    def __init__(self, directory: Path) -> None:
        self._words = _map(directory / f"{PREFIX}{os.getpid()}")

    def add(self, events: int = 1, numbers: int = 0) -> None:
        """Count what has been handled."""
        self._words[1] += numbers
        self._words[0] += events


class Counters:
    """Everybody's, seen from outside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mapped: dict[str, memoryview] = {}

    def totals(self) -> tuple[int, int]:
        """(events, sum of their numbers)."""
        for path in self._directory.glob(f"{PREFIX}*"):
            if path.name not in self._mapped:
                self._mapped[path.name] = _map(path)
        return sum(words[0] for words in self._mapped.values()), sum(words[1] for words in self._mapped.values())

    def wait(self, events: int, timeout_s: float) -> None:
        """Wait until `events` events have been handled.

        Raises:
            TimeoutError: Fewer were, for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        handled, _ = self.totals()
        mapped = list(self._mapped.values())
        while handled < events:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{handled} of {events} deliveries were acknowledged after {timeout_s:g} s")
            time.sleep(LOOK_INTERVAL_S)
            handled = sum(words[0] for words in mapped)


class CountingRig(Rig):
    """A rig whose consumers have no better acknowledgement than to count what they handled."""

    counters: Counters

    def finish(self, deliveries: int, timeout_s: float) -> None:
        self.counters.wait(deliveries, timeout_s)


def _map(path: Path) -> memoryview:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(file, BYTES)
        return memoryview(mmap.mmap(file, BYTES)).cast("Q")
    finally:
        os.close(file)
