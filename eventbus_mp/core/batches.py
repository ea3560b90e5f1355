"""Runs: events that arrived together, kept as one object, and sets of them as the bits of one integer.

A producer numbers its events one after the other, so what one read brings is mostly a range of sequence numbers with
one route and one span. Such a range is a run. Which of its events wait, are unsettled or were completed is a mask for
each subscriber, bit `i` for the event `first + i`; sending, settling and taking back are operations on masks. So the
manager's cost and memory are those of batches: one event alone costs it some 10 us, of forty each 0.3 to 0.6.

A run stays within 256 sequence numbers that begin at a multiple of 256 (a block), by which it is found again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventbus_mp.geometry import RECORD_BYTES

if TYPE_CHECKING:
    from eventbus_mp.core.registry import Route, Topic
    from eventbus_mp.core.spans import Span

__all__ = ["SEQUENCE_BUCKET_EVENTS", "SEQUENCE_BUCKET_SHIFT", "EventBatch", "BatchTable", "bits", "lowest"]

SEQUENCE_BUCKET_SHIFT = 8
SEQUENCE_BUCKET_EVENTS = 1 << SEQUENCE_BUCKET_SHIFT


class EventBatch:
    """Events with consecutive sequence numbers, one route and one span. Each list has one mask a subscriber."""

    __slots__ = (
        "awaited",
        "completed",
        "count",
        "dead_lettered",
        "deadlines",
        "expired",
        "first",
        "is_dead_letter",
        "live",
        "packed",
        "pins",
        "route",
        "span",
        "topics",
        "unsettled",
        "waiting",
    )

    def __init__(self, first: int, route: Route, span: Span, *, is_dead_letter: bool = False) -> None:
        self.first = first
        self.count = 0
        self.packed = b""
        """Their packed records, opaque to the core, sent on as they came."""
        self.route = route
        self.span = span
        self.topics: list[Topic] = []
        """One for all events, or one for each."""
        self.is_dead_letter = is_dead_letter
        """A dead letter: the same payload and sequence as the event it was, told to other subscribers."""
        rows = len(route.subscribers)
        self.unsettled = [0] * rows
        """Not settled: these wait, are suspects, or are in an endpoint's hands."""
        self.waiting = [0] * rows
        """In the subscriber's queue."""
        self.completed = [0] * rows
        self.live = 0
        """Events that somebody still has to settle."""
        self.pins = 0
        """Deliveries that another process settled while their holder may still be reading."""
        self.awaited = 0
        """Events whose producer waits for the final watcher."""
        self.dead_lettered = 0
        """Events that the dead letter topic was told of: each is told once."""
        self.expired = 0
        """Events whose ttl is over: what comes back of them is skipped."""
        self.deadlines: dict[int, int] = {}
        """Index of an event with a ttl -> the expiry bucket it waits in."""

    def add(self, packed: bytes, topics: list[Topic], count: int) -> int:
        """Append events: the mask of the new ones. `topics` is one for all of them, or one for each."""
        mask = ((1 << count) - 1) << self.count
        if self.packed:
            self._mix(topics, count)
            self.packed += packed
        else:
            self.packed, self.topics = packed, topics
        self.count += count
        self.live += count
        return mask

    def _mix(self, topics: list[Topic], count: int) -> None:
        if len(self.topics) == len(topics) == 1 and self.topics[0] is topics[0]:
            return
        ours = self.topics if len(self.topics) > 1 else self.topics * self.count
        self.topics = ours + (topics if len(topics) > 1 else topics * count)

    def continues_with(self, sequence: int) -> bool:
        """Whether this is the next sequence number, and in the same block."""
        return (
            sequence == self.first + self.count
            and sequence >> SEQUENCE_BUCKET_SHIFT == self.first >> SEQUENCE_BUCKET_SHIFT
        )

    def topic_of(self, index: int) -> Topic:
        return self.topics[index if len(self.topics) > 1 else 0]

    def topics_of(self, mask: int) -> list[Topic]:
        """The topic of each of these events, in a run that has one for each."""
        start, stop = (mask & -mask).bit_length() - 1, mask.bit_length()
        if mask == (1 << stop) - (1 << start):
            return self.topics[start:stop]
        return [self.topics[index] for index in bits(mask)]

    def of_topic(self, topic: Topic) -> int:
        """The mask of the events of one topic."""
        if len(self.topics) == 1:
            return (1 << self.count) - 1 if self.topics[0] is topic else 0
        return sum(1 << index for index, found in enumerate(self.topics) if found is topic)

    def without_topic(self) -> int:
        """The mask of the events whose topic was unregistered."""
        if len(self.topics) == 1:
            return (1 << self.count) - 1 if self.topics[0].is_gone else 0
        return sum(1 << index for index, topic in enumerate(self.topics) if topic.is_gone)

    def any_unsettled(self) -> int:
        """The mask of the events that somebody still has to settle."""
        union = 0
        for mask in self.unsettled:
            union |= mask
        return union

    def cut(self, mask: int) -> bytes:
        """The records of these events."""
        start, stop = (mask & -mask).bit_length() - 1, mask.bit_length()
        if mask == (1 << stop) - (1 << start):
            return self.packed[start * RECORD_BYTES : stop * RECORD_BYTES]
        return b"".join([self.packed[index * RECORD_BYTES : (index + 1) * RECORD_BYTES] for index in bits(mask)])

    def between(self, first: int, last: int) -> int:
        """The mask of the sequence numbers from `first` to `last`, of which this run has some."""
        low, high = max(first - self.first, 0), min(last - self.first + 1, self.count)
        return (1 << high) - (1 << low) if low < high else 0


class BatchTable:
    """All runs that have an unsettled event or a late reader, by block, the oldest first."""

    def __init__(self) -> None:
        self._by_block: dict[int, list[EventBatch]] = {}
        self.newest: EventBatch | None = None
        """Only this one grows: so the order of runs is the order of events."""

    def __iter__(self) -> Iterator[EventBatch]:
        for batches in self._by_block.values():
            yield from batches

    def add(self, batch: EventBatch) -> None:
        self._by_block.setdefault(batch.first >> SEQUENCE_BUCKET_SHIFT, []).append(batch)
        self.newest = batch

    def remove(self, batch: EventBatch) -> None:
        bucket = batch.first >> SEQUENCE_BUCKET_SHIFT
        batches = self._by_block[bucket]
        batches.remove(batch)
        if not batches:
            del self._by_block[bucket]
        if self.newest is batch:
            self.newest = None

    def in_bucket(self, bucket: int) -> tuple[EventBatch, ...] | list[EventBatch]:
        return self._by_block.get(bucket, ())

    def find(self, sequence: int) -> list[tuple[EventBatch, int]]:
        """(run, bit) of the event with this sequence, and of its dead letter, as far as they are unsettled."""
        found = []
        for batch in self.in_bucket(sequence >> SEQUENCE_BUCKET_SHIFT):
            bit = batch.between(sequence, sequence)
            if bit & batch.any_unsettled():
                found.append((batch, bit))
        return found


def bits(mask: int) -> Iterator[int]:
    """The indexes of the events in a mask, from the oldest on."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def lowest(mask: int, limit: int) -> int:
    """The `most` oldest events of a mask that has more of them."""
    start = (mask & -mask).bit_length() - 1
    batch = ((1 << limit) - 1) << start
    if mask & batch == batch:  # They follow each other, as they mostly do.
        return batch
    taken = 0
    for _ in range(limit):
        taken |= (mask ^ taken) & -(mask ^ taken)
    return taken
