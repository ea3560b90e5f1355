"""The backlog of a subscriber that has a bound: how much it has unsettled, and how much it may have."""

from __future__ import annotations

from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.masks import bits, lowest

__all__ = ["WHEN_FULL", "Backlog"]

WHEN_FULL = ("block", "skip")
"""What happens to events for a subscriber whose backlog is full: their producers wait, or they are skipped for it."""
ALLOWANCE_MAX = 1_024
"""How many events a producer may send before it asks again."""


class Backlog:
    """What a subscriber has unsettled, waiting or in a process's hands.

    Each delivery is counted once, when it is queued, and counted off once, when it is settled; where it is in between
    makes no difference. Bytes are counted only if they have a bound.
    """

    __slots__ = ("bytes_max", "event_bytes", "events", "events_max", "nbytes", "warned_ns", "when_full")

    def __init__(self, events_max: int, bytes_max: int, when_full: str) -> None:
        self.events_max = events_max
        """0: any number."""
        self.bytes_max = bytes_max
        """0: any number."""
        self.when_full = when_full
        self.events = 0
        self.nbytes = 0
        self.event_bytes = 0
        """The length of an event lately; 0: not known yet."""
        self.warned_ns: int | None = None
        """When the manager's log last said that it is full."""

    @property
    def terms(self) -> tuple[int, int, str]:
        """What it was asked to be."""
        return self.events_max, self.bytes_max, self.when_full

    @property
    def is_full(self) -> bool:
        """Whether it has as much as it may have."""
        return bool(
            (self.events_max and self.events >= self.events_max) or (self.bytes_max and self.nbytes >= self.bytes_max)
        )

    def takes(self, batch: EventBatch, bit: int) -> bool:
        """Whether it has room for one event more."""
        if self.when_full == "block":
            return not self.is_full
        is_one_too_many = self.events_max and self.events >= self.events_max
        return not is_one_too_many and not (self.bytes_max and self.nbytes + batch.bytes_of(bit) > self.bytes_max)

    def allowance(self, producers: int) -> int:
        """How many events one of so many producers may send before it asks again: all of them fill half of the room."""
        room = ALLOWANCE_MAX * 2 * producers
        if self.events_max:
            room = min(room, self.events_max - self.events)
        if self.bytes_max:
            room = min(room, (self.bytes_max - self.nbytes) // self.event_bytes if self.event_bytes else 1)
        return max(1, room // (2 * producers))

    def add(self, batch: EventBatch, mask: int) -> None:
        """These events were queued."""
        count = mask.bit_count()
        self.events += count
        if self.bytes_max:
            nbytes = batch.bytes_of(mask)
            self.nbytes += nbytes
            self.event_bytes = max(1, nbytes // count)

    def remove(self, batch: EventBatch, mask: int) -> None:
        """These, which were unsettled, are settled."""
        self.events -= mask.bit_count()
        if self.bytes_max:
            self.nbytes -= batch.bytes_of(mask)

    def excess(self, batch: EventBatch, mask: int) -> list[tuple[int, str]]:
        """Which of these events, which were just added, it has no room for: masks, each with the reason."""
        if not self.bytes_max:
            over = self.events - self.events_max
            return [(_newest(mask, over), f"its backlog is full ({self.events_max} events)")] if over > 0 else []
        events, nbytes = self.events - mask.bit_count(), self.nbytes - batch.bytes_of(mask)
        too_many = too_large = 0
        for index in bits(mask):
            length = batch.bytes_of(1 << index)
            if self.events_max and events >= self.events_max:
                too_many |= 1 << index
            elif nbytes + length > self.bytes_max:
                too_large |= 1 << index
            else:
                events, nbytes = events + 1, nbytes + length
        found = (
            (too_many, f"its backlog is full ({self.events_max} events)"),
            (too_large, f"its backlog is full ({self.bytes_max} bytes)"),
        )
        return [(over, reason) for over, reason in found if over]


def _newest(mask: int, count: int) -> int:
    """The newest `count` of these events; all, if there are fewer."""
    keep = mask.bit_count() - count
    return mask & ~lowest(mask, keep) if keep > 0 else mask
