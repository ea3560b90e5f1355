"""The event log: a bounded memory of what happened lately to events, searched by sequence number.

An entry has the first sequence number of a batch and a mask of its events, so the hot path pays one append for a whole
batch. The log answers `bus.story(shadow)` and goes into every InternalError.
"""

from __future__ import annotations

from collections import deque

__all__ = ["EventLog"]

ENTRIES_MAX = 4_096


class EventLog:
    """The latest `ENTRIES_MAX` entries: what happened to some events of a batch, and when."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, str, int, int]] = deque(maxlen=ENTRIES_MAX)

    def record(self, now_ns: int, what: str, first: int, mask: int) -> None:
        """Something happened to the events `first + i` for each bit `i` of the mask."""
        self._entries.append((now_ns, what, first, mask))

    def of(self, sequence: int) -> list[str]:
        """The entries about one event as lines, the oldest first, each with the manager's clock in seconds."""
        return [
            f"{now_ns / 1e9:.6f} {what}"
            for now_ns, what, first, mask in self._entries
            if first <= sequence and mask >> (sequence - first) & 1
        ]
