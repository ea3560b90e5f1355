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
"""Sequence numbers remembered over all batches: half a megabyte."""


class Story:
    def __init__(self) -> None:
        self._entries: deque[tuple[int, str, Sequence[int]]] = deque()
        self._remembered = 0

    def tell_range(self, now_ns: int, what: str, first: int, last: int) -> None:
        self._append(now_ns, what, range(first, last + 1), 1)

    def tell(self, now_ns: int, what: str, sequences: Sequence[int]) -> None:
        self._append(now_ns, what, array("Q", sequences[:REMEMBERED_MAX]), len(sequences))

    def _append(self, now_ns: int, what: str, sequences: Sequence[int], weight: int) -> None:
        self._entries.append((now_ns, what, sequences))
        self._remembered += weight
        while self._remembered > REMEMBERED_MAX and len(self._entries) > 1:
            _, _, oldest = self._entries.popleft()
            self._remembered -= 1 if isinstance(oldest, range) else len(oldest)

    def of(self, sequence: int) -> list[str]:
        """The lines about one event, oldest first, each with the manager's clock in seconds."""
        return [f"{now_ns / 1e9:.6f} {what}" for now_ns, what, sequences in self._entries if sequence in sequences]
