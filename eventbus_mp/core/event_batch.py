"""Events as the core keeps them: the batch, and what its events have in common, their topics and their route.

Who the subscribers of a route are is said in entities.py, which is above: here they are what has a number.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits
from eventbus_mp.core.receipt_boxes import ReceiptPage
from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol.records import LENGTH

__all__ = ["NOBODY", "EventBatch", "Route", "Topic"]


class _Numbered(Protocol):
    number: int
    backlog: Any


S = TypeVar("S", bound=_Numbered)


class Route(Generic[S]):
    """The subscribers of some topics at one moment. Events keep the route they were notified with.

    Each subscriber has a row: its index in the lists of masks that a batch keeps.
    """

    __slots__ = ("bounded", "is_imported", "row_of", "subscribers")

    def __init__(self, subscribers: tuple[S, ...], *, is_imported: bool = False) -> None:
        self.subscribers = subscribers
        self.is_imported = is_imported
        """Its events have come from another host. They have a route of their own, even if it leads to the same
        subscribers, so no batch has both."""
        self.row_of = {subscriber.number: row for row, subscriber in enumerate(subscribers)}
        self.bounded: tuple[tuple[int, S], ...] = ()
        """(row, subscriber) of those whose backlog has a bound. With nobody in it, bounds cost an event nothing."""
        self.find_bounded()

    def find_bounded(self) -> None:
        """A subscriber has another bound than before, or none."""
        self.bounded = tuple(
            (row, subscriber) for row, subscriber in enumerate(self.subscribers) if subscriber.backlog is not None
        )


NOBODY: Route[Any] = Route(())
"""The route of a topic that nobody subscribes to."""


class Topic:
    """One topic; `unsettled` counts its events that somebody still has to settle."""

    __slots__ = (
        "batches",
        "delivered",
        "dropped",
        "is_gone",
        "name",
        "nbytes",
        "notified",
        "number",
        "route",
        "unsettled",
    )

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.unsettled = 0
        self.route: Route[Any] = NOBODY
        self.is_gone = False
        """It was unregistered."""
        self.batches: dict[EventBatch, None] = {}
        """Those in the table that have, or had, an unsettled event of this topic, the oldest first."""
        self.nbytes = 0
        """Of its events' payloads in these batches; a dead letter has none of its own."""
        self.notified = 0
        self.delivered = 0
        """Deliveries, one for each subscriber of an event."""
        self.dropped = 0
        """Events that nobody was subscribed to."""

    def oldest_ns(self, masks: dict[EventBatch, dict[Topic, int]]) -> int | None:
        """When the oldest batch with an unsettled event of this topic began; None: there is none.

        Args:
            masks: What the question for one topic finds out for that for the next: batches of many topics.
        """
        if self.unsettled:
            for batch in self.batches:
                if len(batch.topics) == 1:
                    mask = -1
                else:
                    by_topic = masks.get(batch)
                    if by_topic is None:
                        by_topic = masks[batch] = batch.by_topic()
                    mask = by_topic[self]
                if mask & batch.any_unsettled():
                    return batch.since_ns
        return None


class EventBatch:
    """Events that arrived together: consecutive sequence numbers, one route, one span.

    A producer numbers its events one after the other, so what one read of a pipe brings is mostly a range of sequence
    numbers with the same subscribers and in the same piece of memory. The core keeps such a range as one object. One
    event on its own costs the manager some 10 us of decisions; in a batch of forty, each costs 0.3 to 0.6.

    What differs from event to event is kept in masks. Bit `i` stands for the event `first + i`, and the lists of masks
    have one for each subscriber of the route, at the subscriber's row. Sending some events, settling them and taking
    them back from a dead process are then one or two operations on integers, whatever their number:

        sent        waiting[row] &= ~mask        and the endpoint's in_flight[batch] |= mask
        settled     unsettled[row] &= ~mask      and the endpoint's in_flight[batch] &= ~mask
        completed   completed[row] |= mask       in addition; what is neither unsettled nor completed was skipped
        returned    waiting[row] |= mask         and the endpoint's in_flight[batch] &= ~mask

    Clearing uses `&= ~`, never `^=`: a bit that is clear stays clear, so a message that comes twice changes nothing.

    `core/invariants.py` checks, for every batch and row:

    - An unsettled delivery is in exactly one place: `waiting`, an endpoint's `in_flight`, the quarantine, or `delayed`.
    - What waits, is delayed or is in quarantine is unsettled. What is completed is not.
    - In flight but not unsettled: another process settled the delivery while its holder may be reading. Such deliveries
      are counted by `pins`, and keep the batch, and with it the memory, until the holder is done.
    - `live` is the number of events that are unsettled for anybody. A batch with neither `live` events nor `pins` is
      removed; its span counts one batch less.

    Only the newest batch grows, and only while the next event has the same route, span and bucket (see masks.py).
    """

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
        "nbytes",
        "packed",
        "pins",
        "route",
        "since_ns",
        "span",
        "tagged",
        "topics",
        "unsettled",
        "waiting",
    )

    def __init__(
        self, first: int, route: Route[Any], span: Span, now_ns: int = 0, *, is_dead_letter: bool = False
    ) -> None:
        self.first = first
        self.count = 0
        self.packed = b""
        """The events' packed records, opaque to the core, which sends them on as they came."""
        self.route = route
        self.span = span
        self.topics: list[Topic] = []
        """One topic for all events, or one for each of them."""
        self.is_dead_letter = is_dead_letter
        """The same payload and sequence as the event it was, delivered to the subscribers of the dead letter topic."""
        rows = len(route.subscribers)
        self.unsettled = [0] * rows
        """By row: not settled yet."""
        self.waiting = [0] * rows
        """By row: in the subscriber's queue."""
        self.completed = [0] * rows
        """By row: settled as completed."""
        self.since_ns = now_ns
        """When its first event arrived."""
        self.nbytes = 0
        """Of its payloads; a dead letter has none of its own."""
        self.live = 0
        """Number of events that somebody still has to settle."""
        self.pins = 0
        """Number of deliveries that another process settled while their holder may still be reading."""
        self.awaited = 0
        """Mask of the events whose producer waits for the final watcher."""
        self.tagged: tuple[ReceiptPage, ...] = ()
        """Where the tags of its events are, of those that have some."""
        self.dead_lettered = 0
        """Mask of the events that went to the dead letter topic; each goes there once."""
        self.expired = 0
        """Mask of the events whose ttl is over; if a process hands one back, it is skipped."""
        self.deadlines: dict[int, int] = {}
        """Index of an event with a ttl -> the expiry bucket it waits in."""

    @property
    def is_imported(self) -> bool:
        """Its events have come from another host: they go to no other one."""
        return self.route.is_imported

    def add(self, packed: bytes, topics: list[Topic], count: int) -> int:
        """Append events: the mask of the new ones. `topics` is one for all of them, or one for each."""
        mask = ((1 << count) - 1) << self.count
        if self.packed:
            self._add_topics(topics, count)
            self.packed += packed
        else:
            self.packed, self.topics = packed, topics
        self.count += count
        self.live += count
        return mask

    def _add_topics(self, topics: list[Topic], count: int) -> None:
        if len(self.topics) == len(topics) == 1 and self.topics[0] is topics[0]:
            return
        # From now on one topic for each event.
        ours = self.topics if len(self.topics) > 1 else self.topics * self.count
        self.topics = ours + (topics if len(topics) > 1 else topics * count)

    def continues_with(self, sequence: int) -> bool:
        """Whether this is the next sequence number, and in the same bucket."""
        return (
            sequence == self.first + self.count
            and sequence >> SEQUENCE_BUCKET_SHIFT == self.first >> SEQUENCE_BUCKET_SHIFT
        )

    def topic_of(self, index: int) -> Topic:
        """The topic of one event."""
        return self.topics[index if len(self.topics) > 1 else 0]

    def topics_of(self, mask: int) -> list[Topic]:
        """The topic of each of these events, in a batch that has one for each."""
        start, stop = (mask & -mask).bit_length() - 1, mask.bit_length()
        if mask == (1 << stop) - (1 << start):
            return self.topics[start:stop]
        return [self.topics[index] for index in bits(mask)]

    def of_topic(self, topic: Topic) -> int:
        """The mask of the events of one topic."""
        if len(self.topics) == 1:
            return (1 << self.count) - 1 if self.topics[0] is topic else 0
        return sum(1 << index for index, found in enumerate(self.topics) if found is topic)

    def by_topic(self) -> dict[Topic, int]:
        """Topic -> the mask of its events, in a batch that has one for each."""
        masks: dict[Topic, int] = {}
        for index, topic in enumerate(self.topics):
            masks[topic] = masks.get(topic, 0) | 1 << index
        return masks

    def without_topic(self) -> int:
        """The mask of the events whose topic was unregistered."""
        if len(self.topics) == 1:
            return (1 << self.count) - 1 if self.topics[0].is_gone else 0
        return sum(1 << index for index, topic in enumerate(self.topics) if topic.is_gone)

    def lengths(self) -> list[int]:
        """The length of each event's payload."""
        return memoryview(self.packed).cast("I")[LENGTH :: RECORD_BYTES // 4].tolist()

    def bytes_of(self, mask: int) -> int:
        """The length of these events' payloads, together."""
        words = memoryview(self.packed).cast("I")
        return sum([words[index * (RECORD_BYTES // 4) + LENGTH] for index in bits(mask)])

    def any_unsettled(self) -> int:
        """The mask of the events that somebody still has to settle."""
        union = 0
        for mask in self.unsettled:
            union |= mask
        return union

    def cut(self, mask: int) -> bytes:
        """The records of these events."""
        start, stop = (mask & -mask).bit_length() - 1, mask.bit_length()
        if mask == (1 << stop) - (1 << start):  # The common case: they follow each other, and one slice has them.
            return self.packed[start * RECORD_BYTES : stop * RECORD_BYTES]
        return b"".join([self.packed[index * RECORD_BYTES : (index + 1) * RECORD_BYTES] for index in bits(mask)])

    def after(self, sequence: int) -> int:
        """The mask of the events whose sequence numbers are larger."""
        return self.between(sequence + 1, self.first + self.count)

    def between(self, first: int, last: int) -> int:
        """The mask of the events whose sequence numbers are from `first` to `last`."""
        low, high = max(first - self.first, 0), min(last - self.first + 1, self.count)
        return (1 << high) - (1 << low) if low < high else 0
