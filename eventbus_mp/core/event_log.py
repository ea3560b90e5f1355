"""The story of an event: a bounded memory of what happened lately, searched by sequence number.

Kept per batch, as the first sequence number of a run and a mask of its events, so that it costs the hot path one append
a batch. It answers `bus.story(shadow)` and goes into every InternalError.
"""

from __future__ import annotations

from collections import deque

__all__ = ["EventLog"]

ENTRIES_MAX = 4_096


class EventLog:
    def __init__(self) -> None:
        self._entries: deque[tuple[int, str, int, int]] = deque(maxlen=ENTRIES_MAX)

    def record(self, now_ns: int, what: str, first: int, mask: int) -> None:
        """Something happened to the events `first + i` for each bit `i` of the mask."""
        self._entries.append((now_ns, what, first, mask))

    def of(self, sequence: int) -> list[str]:
        """The lines about one event, oldest first, each with the manager's clock in seconds."""
        return [
            f"{now_ns / 1e9:.6f} {what}"
            for now_ns, what, first, mask in self._entries
            if first <= sequence and mask >> (sequence - first) & 1
        ]
