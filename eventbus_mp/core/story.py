"""The story of an event: a bounded memory of what happened lately, searched by sequence number.

Kept per batch, so that it costs the hot path one append a batch: a notified batch is a range (a producer's sequence
numbers grow), any other is an array of numbers. It answers `bus.story(shadow)` and goes into every InternalError.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

__all__ = ["Story"]

REMEMBERED_MAX = 1 << 16
"""Sequence numbers remembered over all batches, together with the weight of these."""
ENTRY_WEIGHT = 16
"""What a batch weighs, in sequence numbers: its line of text, its time."""


class Story:
    def __init__(self) -> None:
        self._entries: deque[tuple[int, str, Sequence[int], int]] = deque()
        self._remembered = 0

    def tell_range(self, now_ns: int, what: str, first: int, last: int) -> None:
        self._append(now_ns, what, range(first, last + 1), ENTRY_WEIGHT)

    def tell(self, now_ns: int, what: str, sequences: Sequence[int]) -> None:
        numbers = array("Q", sequences[:REMEMBERED_MAX])
        self._append(now_ns, what, numbers, ENTRY_WEIGHT + len(numbers))

    def _append(self, now_ns: int, what: str, sequences: Sequence[int], weight: int) -> None:
        self._entries.append((now_ns, what, sequences, weight))
        self._remembered += weight
        while self._remembered > REMEMBERED_MAX and len(self._entries) > 1:
            self._remembered -= self._entries.popleft()[3]

    def of(self, sequence: int) -> list[str]:
        """The lines about one event, oldest first, each with the manager's clock in seconds."""
        return [f"{now_ns / 1e9:.6f} {what}" for now_ns, what, sequences, _ in self._entries if sequence in sequences]
