"""Expiry: events with a deadline, in coarse buckets that forget an event as soon as it is settled."""

from __future__ import annotations

import heapq

from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.masks import bits

__all__ = ["Expiry"]

BUCKET_SHIFT = 24
"""Buckets are 2^24 ns (17 ms) wide: an event expires at most that much late, and never early."""
TIDY_ABOVE = 1_000
"""How many more numbers than buckets may be in the heap before it is rebuilt."""


class Expiry:
    """Events with a deadline.

    An event with deadline `d` is in bucket `(d >> BUCKET_SHIFT) + 1`, which is due when the clock reaches its number.
    A heap has the numbers of the buckets, and only those: an event that is settled early, as most are, is taken out of
    its bucket for the price of two dictionary look-ups, and the heap learns of it when that number comes up.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, dict[EventBatch, int]] = {}
        self._heap: list[int] = []

    def add(self, batch: EventBatch, index: int, deadline_ns: int) -> None:
        """The event of this index expires at `deadline_ns`."""
        number = batch.deadlines[index] = (deadline_ns >> BUCKET_SHIFT) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._heap, number)
        bucket[batch] = bucket.get(batch, 0) | 1 << index

    def discard(self, batch: EventBatch, mask: int) -> None:
        """Forget the deadlines of these events; most have none."""
        for index in [index for index in batch.deadlines if mask >> index & 1]:
            number = batch.deadlines.pop(index)
            bucket = self._buckets.get(number)
            if bucket is None:
                continue  # It was due, and is gone.
            bucket[batch] &= ~(1 << index)
            if not bucket[batch]:
                del bucket[batch]
            if not bucket:
                del self._buckets[number]
                self._tidy()

    def due(self, now_ns: int) -> list[tuple[EventBatch, int]]:
        """Take out every (batch, mask) whose bucket has passed."""
        events: list[tuple[EventBatch, int]] = []
        while self._heap and self._heap[0] << BUCKET_SHIFT <= now_ns:
            events += self._buckets.pop(heapq.heappop(self._heap), {}).items()
        for batch, mask in events:
            for index in bits(mask):
                del batch.deadlines[index]
        return events

    def next_due_ns(self) -> int | None:
        """When the next bucket with an event in it is due; None: there is none."""
        # A bucket whose events were all settled early needs no wake-up.
        while self._heap and self._heap[0] not in self._buckets:
            heapq.heappop(self._heap)
        return self._heap[0] << BUCKET_SHIFT if self._heap else None

    def _tidy(self) -> None:
        """Drop the numbers of buckets that are gone, once they are the greater part: deadlines may be days away."""
        if len(self._heap) > 2 * len(self._buckets) + TIDY_ABOVE:
            self._heap = sorted(self._buckets)  # A sorted list is a heap.
