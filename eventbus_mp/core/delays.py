"""Deliveries that are to be tried again at some time: until then they wait here, and no process and no credit with
them."""

from __future__ import annotations

import heapq

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch

__all__ = ["Delays"]

TIDY_ABOVE = 1_000
"""The heap is rebuilt when it has this many entries, and then when it has twice as many as were left."""


class Delays:
    """When delayed deliveries are due. Which ones are delayed, their subscribers know (`SubscriberState.delayed`).

    A delivery that is settled before it is due leaves its entry in the heap, which finds nothing to do when its time
    comes. A delivery is delayed again only after it was due, so each has one entry that counts.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, SubscriberState, EventBatch, int]] = []
        """(due, serial, subscriber, batch, mask). Empty: nothing is delayed."""
        self._serial = 0
        self._tidy_above = TIDY_ABOVE

    def add(self, due_ns: int, subscriber: SubscriberState, batch: EventBatch, mask: int) -> None:
        """These deliveries are due at this time."""
        self._serial += 1
        heapq.heappush(self.heap, (due_ns, self._serial, subscriber, batch, mask))
        if len(self.heap) > self._tidy_above:
            # Delays may be days long: what was settled meanwhile must not keep its batches until then.
            self.heap = [item for item in self.heap if _left(item)]
            heapq.heapify(self.heap)
            self._tidy_above = max(TIDY_ABOVE, 2 * len(self.heap))

    def due(self, now_ns: int) -> list[tuple[SubscriberState, EventBatch, int]]:
        """Take out the deliveries whose time has come, the earliest first."""
        found = []
        while self.heap and self.heap[0][0] <= now_ns:
            item = heapq.heappop(self.heap)
            left = _left(item)
            if left:
                found.append((item[2], item[3], left))
        return found

    def next_due_ns(self) -> int | None:
        """When the next delivery is due; None: there is none."""
        while self.heap and not _left(self.heap[0]):
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else None


def _left(item: tuple[int, int, SubscriberState, EventBatch, int]) -> int:
    """Those deliveries of an entry that are still delayed."""
    _, _, subscriber, batch, mask = item
    return mask & subscriber.delayed.get(batch, 0)
