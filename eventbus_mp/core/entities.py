"""The nouns of the core: topic, route, subscriber, endpoint, batch of events. (Links and leases are in links.py.)

They hold what is known and keep their own counts straight. What happens to them is decided by the functions of the
other modules; `state.py` has the object that holds all of them.
"""

from __future__ import annotations

import re
from collections import deque

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits
from eventbus_mp.geometry import RECORD_BYTES

__all__ = [
    "NOBODY",
    "RECENT_SKIPS_MAX",
    "Endpoint",
    "EventBatch",
    "Route",
    "SubscriberState",
    "Topic",
]

RECENT_SKIPS_MAX = 100
"""How many skips of a subscriber are remembered with their reasons, the newest ones."""

CREDIT_FIRST = 2
"""What an endpoint with automatic credit begins with: one to work on, one to go on with."""
QUEUED_WORK_NS = 4_000_000
"""Automatic credit aims at this much queued work for each endpoint: some rounds of the manager, which rests for a fifth
of a millisecond under load, and of a worker, which settles every two."""
QUEUED_SLOW, QUEUED_SLOW_NS = 8, 8_000_000
"""Slow tasks: queue at most QUEUED_SLOW of them, or QUEUED_SLOW_NS of work. Tasks of 1 ms thus get eight, of which a
worker settles four at once. With a credit of four, workers ran dry now and then, and each wake-up of the manager takes
a core from a worker: 3 % of the throughput."""
SHARE_NS = 250_000
"""Less work than this is not divided among several endpoints: a message costs the manager and the process some 50 us.
With 64 endpoints of a fast handler, dividing everything evenly cost four times as much per event as one endpoint
did."""
SLOW_NS = 10_000_000
"""From this cost on, a second shadow would wait longer behind the first than a free process needs to take it."""


class Route:
    """The subscribers of some topics at one moment. Events keep the route they were notified with.

    Each subscriber has a row: its index in the lists of masks that a batch keeps.
    """

    __slots__ = ("row_of", "subscribers")

    def __init__(self, subscribers: tuple[SubscriberState, ...]) -> None:
        self.subscribers = subscribers
        self.row_of = {subscriber.number: row for row, subscriber in enumerate(subscribers)}


NOBODY = Route(())
"""The route of a topic that nobody subscribes to."""


class Topic:
    """One topic; `unsettled` counts its events that somebody still has to settle."""

    __slots__ = ("is_gone", "name", "number", "route", "unsettled")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.unsettled = 0
        self.route = NOBODY
        self.is_gone = False
        """It was unregistered."""


class SubscriberState:
    """One subscriber: what it wants, who hosts it, and what waits for it."""

    __slots__ = (
        "attempts",
        "broadcast",
        "completed",
        "config",
        "endpoints",
        "matchers",
        "name",
        "number",
        "patterns",
        "quarantine",
        "queue",
        "queued",
        "recent_skips",
        "redelivered",
        "skipped",
        "stale",
    )

    def __init__(self, number: int, name: str, config: bytes, broadcast: bool) -> None:
        self.number = number
        self.name = name
        self.config = config
        self.broadcast = broadcast
        self.patterns: tuple[str, ...] = ()
        self.matchers: tuple[re.Pattern[str], ...] = ()
        self.endpoints: list[Endpoint] = []
        self.queue: deque[EventBatch] = deque()
        """Batches with events that wait, in the order of their events."""
        self.queued = 0
        """How many deliveries wait in these batches."""
        self.stale = 0
        """How many places in `queue` belong to batches of which nothing waits any more."""
        self.quarantine: deque[tuple[EventBatch, int]] = deque()
        """(batch, bit) of events whose holder crashed. They come before `queue`, and each is sent alone, so that the
        next crash accuses a single event."""
        self.attempts: dict[int, int] = {}
        """sequence -> crashes, of events that are or were in quarantine and are not settled."""
        self.completed = 0
        self.skipped = 0
        self.redelivered = 0
        self.recent_skips: deque[tuple[str, str]] = deque(maxlen=RECENT_SKIPS_MAX)
        """(event id, reason), the newest last."""

    def wants(self, topic: str) -> bool:
        """Whether one of its patterns matches the topic."""
        return any(matcher.match(topic) for matcher in self.matchers)

    def note_stale(self) -> None:
        """A queued batch has nothing left that waits; rebuild the queue once most of its places are like that.

        Taking a batch out of the middle of a deque costs its length. Leaving the place, and dropping all such places
        when they are the greater part, costs a constant amount for each.
        """
        self.stale += 1
        if self.stale * 2 <= len(self.queue):
            return
        number = self.number
        # A batch that came back in the meantime has two places.
        self.queue = deque(dict.fromkeys(batch for batch in self.queue if batch.waiting[batch.route.row_of[number]]))
        self.stale = 0


class Endpoint:
    """One process's place for one subscriber. `in_flight` is what it was sent and has not settled: batch -> mask."""

    __slots__ = (
        "cost_ns",
        "credit",
        "credit_max",
        "in_flight",
        "in_flight_count",
        "is_resyncing",
        "link",
        "since_ns",
        "subscriber",
    )

    def __init__(self, link: int, subscriber: SubscriberState, credit: int, credit_max: int) -> None:
        self.link = link
        self.subscriber = subscriber
        self.in_flight: dict[EventBatch, int] = {}
        self.in_flight_count = 0
        """How many events are in `in_flight`."""
        self.cost_ns = 0
        """What one delivery takes, an average that follows quickly; 0: not known yet."""
        self.since_ns = 0
        """When its present work began."""
        self.credit_max = 0 if credit else credit_max
        """The bound of automatic credit; 0: the credit is fixed."""
        self.credit = credit or CREDIT_FIRST
        self.is_resyncing = False
        """The manager was replaced, and the process has not yet reported what arrived. What is missing goes first."""

    @property
    def free(self) -> int:
        """How many more events it may be sent."""
        return 0 if self.is_resyncing else self.credit - self.in_flight_count

    @property
    def min_batch(self) -> int:
        """How many events are worth a message of their own: as many as make `SHARE_NS` of work."""
        return SHARE_NS // self.cost_ns if self.cost_ns else 1

    def add_in_flight(self, batch: EventBatch, mask: int) -> None:
        """These events were sent to it."""
        self.in_flight[batch] = self.in_flight.get(batch, 0) | mask
        self.in_flight_count += mask.bit_count()

    def release_in_flight(self, batch: EventBatch, mask: int) -> int:
        """It no longer holds these events of the batch: the mask of those that it did hold."""
        in_flight = self.in_flight.get(batch, 0)
        hit = in_flight & mask
        if hit == in_flight:
            self.in_flight.pop(batch, None)
        else:
            self.in_flight[batch] = in_flight & ~hit
        self.in_flight_count -= hit.bit_count()
        return hit

    def release_all_in_flight(self) -> list[tuple[EventBatch, int]]:
        """It no longer holds anything: what it held, the oldest first."""
        events = list(self.in_flight.items())
        self.in_flight.clear()
        self.in_flight_count = 0
        return events

    def update_credit(self, settled: int, now_ns: int, reported_ns: int = 0) -> None:
        """Set the credit so that it covers about `QUEUED_WORK_NS` of work.

        `reported_ns` is the cost of a delivery as the process measured it. The time seen from here is a poor
        substitute: one of many processes on few cores looks slow.
        """
        cost_ns = reported_ns or (now_ns - self.since_ns) // settled + 1
        self.since_ns = now_ns
        self.cost_ns = cost_ns = (self.cost_ns + cost_ns) // 2 if self.cost_ns else cost_ns
        if not self.credit_max:
            return
        if cost_ns > SLOW_NS:
            self.credit = 1
        else:
            slow = min(QUEUED_SLOW, QUEUED_SLOW_NS // cost_ns)
            self.credit = min(max(QUEUED_WORK_NS // cost_ns, slow, CREDIT_FIRST), self.credit_max)


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

    - An unsettled delivery is in exactly one place: `waiting`, an endpoint's `in_flight`, or the quarantine.
    - What waits or is in quarantine is unsettled. What is completed is not.
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
        self.live = 0
        """Number of events that somebody still has to settle."""
        self.pins = 0
        """Number of deliveries that another process settled while their holder may still be reading."""
        self.awaited = 0
        """Mask of the events whose producer waits for the final watcher."""
        self.dead_lettered = 0
        """Mask of the events that went to the dead letter topic; each goes there once."""
        self.expired = 0
        """Mask of the events whose ttl is over; if a process hands one back, it is skipped."""
        self.deadlines: dict[int, int] = {}
        """Index of an event with a ttl -> the expiry bucket it waits in."""

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
        if mask == (1 << stop) - (1 << start):  # The common case: they follow each other, and one slice has them.
            return self.packed[start * RECORD_BYTES : stop * RECORD_BYTES]
        return b"".join([self.packed[index * RECORD_BYTES : (index + 1) * RECORD_BYTES] for index in bits(mask)])

    def between(self, first: int, last: int) -> int:
        """The mask of the events whose sequence numbers are from `first` to `last`."""
        low, high = max(first - self.first, 0), min(last - self.first + 1, self.count)
        return (1 << high) - (1 << low) if low < high else 0
