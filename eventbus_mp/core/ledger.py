"""The ledger: the state that every decision shares, and the ways a delivery can end.

`bus.py` and `requests.py` decide what happens; here is how: settle, give up, take back, finish, recycle. Whatever
makes work for later in the same message (a queue that grew, a span that came free, a topic that ran empty) is noted
and done once at its end, by `BusCore.handle`.
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from typing import NamedTuple

from eventbus_mp.core.dispatcher import Endpoint, note_stale
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.registry import Registry, Route, SubscriberState, Topic
from eventbus_mp.core.spans import Span, SpanTable
from eventbus_mp.core.story import Story
from eventbus_mp.core.watcher import EXPIRED, Letter, Unsettled, describe
from eventbus_mp.effects import Effect, GrantSpan, Reply, Warn
from eventbus_mp.messages import Outcome

__all__ = ["DrainWaiter", "Expiry", "Ledger", "SpanRequest"]

BUCKET_SHIFT = 24
"""Expiry looks at buckets of 2^24 ns (17 ms): an event goes at most that much late, never early."""
TIDY_ABOVE = 1_000


class SpanRequest(NamedTuple):
    link: int
    length: int
    reserve: bool


class DrainWaiter(NamedTuple):
    link: int
    request: int
    pattern: re.Pattern[str]


class Expiry:
    """Events with a deadline, in coarse buckets that forget an event as soon as it is settled."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[int, Unsettled]] = {}
        self._order: list[int] = []

    def add(self, event: Unsettled, deadline_ns: int) -> None:
        event.bucket = (deadline_ns >> BUCKET_SHIFT) + 1
        bucket = self._buckets.get(event.bucket)
        if bucket is None:
            bucket = self._buckets[event.bucket] = {}
            heapq.heappush(self._order, event.bucket)
        bucket[event.sequence] = event

    def discard(self, event: Unsettled) -> None:
        bucket = self._buckets.get(event.bucket)
        if bucket is not None:
            bucket.pop(event.sequence, None)
            if not bucket:
                del self._buckets[event.bucket]
                self._tidy()

    def due(self, now_ns: int) -> list[Unsettled]:
        """Take out every event whose bucket has passed."""
        events: list[Unsettled] = []
        while self._order and self._order[0] << BUCKET_SHIFT <= now_ns:
            events += self._buckets.pop(heapq.heappop(self._order), {}).values()
        return events

    def next_due_ns(self) -> int | None:
        # A bucket whose events were all settled early needs no wake-up.
        while self._order and self._order[0] not in self._buckets:
            heapq.heappop(self._order)
        return self._order[0] << BUCKET_SHIFT if self._order else None

    def _tidy(self) -> None:
        """Forget the numbers of buckets that are gone, once most are: deadlines may be days away."""
        if len(self._order) > 2 * len(self._buckets) + TIDY_ABOVE:
            self._order = sorted(self._buckets)  # A sorted list is a heap.


class Ledger:
    def __init__(self, memory_bytes_max: int, deliveries_max: int, dead_letter_topic: str | None) -> None:
        self.registry = Registry()
        self.spans = SpanTable(memory_bytes_max)
        self.links: dict[int, LinkState] = {}
        self.story = Story()
        self.expiry = Expiry()
        self.lettered: set[int] = set()
        """Unsettled events that the dead letter topic was told of: each is told once."""
        self.awaited: dict[int, int] = {}
        """sequence -> link that waits for the final watcher; the sequence is its request number, too."""
        self.drains: list[DrainWaiter] = []
        self.span_requests: deque[SpanRequest] = deque()
        """Producers that wait for memory, first come first served."""
        self.dirty: dict[SubscriberState, None] = {}
        """Subscribers that may have something to dispatch."""
        self.orphans: dict[SubscriberState, int] = {}
        """Subscribers that no process hosts -> when they are given up."""
        self.memory_freed = False
        self.topic_emptied = False
        self.events_notified = 0
        self.events_dropped = 0
        self._deliveries_max = deliveries_max
        self._dead_letter_topic = dead_letter_topic

    # --- the end of a delivery ---

    def settle_queued(self, event: Unsettled, subscriber: SubscriberState, outcome: int, effects: list[Effect]) -> None:
        """Settle a delivery that nobody holds."""
        self._count(event, subscriber, outcome)
        if event.sequence in subscriber.attempts:
            del subscriber.attempts[event.sequence]
            subscriber.suspects.remove(event)
            self.dirty[subscriber] = None  # What waited behind it need not wait any longer.
        else:
            note_stale(subscriber)
        if not event.unsettled:
            self.finish(event, effects)

    def settle_held(self, event: Unsettled, subscriber: SubscriberState, outcome: int, effects: list[Effect]) -> None:
        """Settle a delivery that an endpoint held until now."""
        subscriber.attempts.pop(event.sequence, None)
        self._count(event, subscriber, outcome)
        if not event.unsettled:
            self.finish(event, effects)

    def _count(self, event: Unsettled, subscriber: SubscriberState, outcome: int) -> None:
        event.settle(event.route.bit_of[subscriber.number], outcome)
        if outcome == Outcome.COMPLETED:
            subscriber.completed += 1
        else:
            subscriber.skipped += 1

    def give_up(
        self, event: Unsettled, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]
    ) -> None:
        """Skip a delivery that nobody holds, for a reason of the bus; the dead letter topic gets the event."""
        text = f"{subscriber.name}: gave up event {event.sequence:#x} of {event.route.topic.name}: {reason}"
        effects.append(Warn(text))
        subscriber.recent_skips.append((f"{event.sequence:#x}", reason))
        self.story.tell(now_ns, f"given up for {subscriber.name}: {reason}", [event.sequence])
        self.dead_letter(event)
        self.settle_queued(event, subscriber, Outcome.SKIPPED, effects)

    def dead_letter(self, event: Unsettled) -> None:
        """Deliver the same payload to the dead letter topic's subscribers; nothing is copied.

        A subscriber that was told of the event itself is not told again.
        """
        topic = self.registry.topics.get(self._dead_letter_topic or "")
        if topic is None or topic is event.route.topic or event.sequence in self.lettered:
            return
        told = event.route.bit_of
        route = Route(topic, [item for item in topic.route.subscribers if item.number not in told])
        if not route.full:
            return
        self.lettered.add(event.sequence)
        letter = Letter(event.sequence, event.raw, route, event.span, route.full)
        topic.events[letter.sequence] = letter
        letter.span.live += 1
        for subscriber in route.subscribers:
            subscriber.queue.append(letter)
            self.dirty[subscriber] = None

    def finish(self, event: Unsettled, effects: list[Effect]) -> None:
        """All of the event's deliveries are settled: forget it and let go of its memory."""
        topic = event.route.topic
        if topic.events.pop(event.sequence, None) is not None and not topic.events:
            self.topic_emptied = True
        if event.bucket:
            self.expiry.discard(event)
        # A dead letter has the sequence of its event, and says nothing about that.
        if (self.awaited or self.lettered) and type(event) is not Letter:
            self.lettered.discard(event.sequence)
            link = self.awaited.pop(event.sequence, None)
            if link is not None:
                effects.append(Reply(link, event.sequence, describe(event)))
        self.unpin(event.span, effects)

    def unpin(self, span: Span, effects: list[Effect]) -> None:
        """One event or late reader of the span less."""
        span.live -= 1
        if span.sealed and not span.live:
            self.recycle_if_free(span, effects)

    def recycle_if_free(self, span: Span, effects: list[Effect]) -> None:
        if span.recyclable:
            self.spans.recycle(span, effects)
            self.memory_freed = True

    # --- deliveries that come back ---

    def is_unsettled(self, event: Unsettled, subscriber: SubscriberState) -> bool:
        return bool(event.unsettled & event.route.bit_of[subscriber.number])

    def take_back(self, endpoint: Endpoint, crashed: bool, now_ns: int, effects: list[Effect]) -> None:
        """The endpoint is gone: what it holds goes back to the front, oldest first."""
        subscriber = endpoint.subscriber
        events = list(endpoint.held.values())
        endpoint.held.clear()
        if crashed:
            returned = self._worth_returning(subscriber, events, now_ns, effects)
            self._tell_returned(subscriber, "its process crashed", returned, now_ns)
            self._suspect(subscriber, returned, now_ns, effects)
        else:
            self.return_to_front(subscriber, events, now_ns, effects)

    def return_to_front(
        self, subscriber: SubscriberState, events: list[Unsettled], now_ns: int, effects: list[Effect]
    ) -> None:
        """Queue events again without counting an attempt; suspects stay suspects."""
        returned = self._worth_returning(subscriber, events, now_ns, effects)
        for event in reversed(returned):
            if event.sequence in subscriber.attempts:
                subscriber.suspects.appendleft(event)
            else:
                subscriber.queue.appendleft(event)
        self._tell_returned(subscriber, "handed back", returned, now_ns)

    def _tell_returned(self, subscriber: SubscriberState, what: str, returned: list[Unsettled], now_ns: int) -> None:
        if returned:
            subscriber.redelivered += len(returned)
            self.dirty[subscriber] = None
            self.story.tell(now_ns, f"{subscriber.name}: {what}", [event.sequence for event in returned])

    def _worth_returning(
        self, subscriber: SubscriberState, events: list[Unsettled], now_ns: int, effects: list[Effect]
    ) -> list[Unsettled]:
        """Those of `events`, which nobody holds any more, that somebody else is to get."""
        worth = []
        for event in events:
            if not self.is_unsettled(event, subscriber):
                # Settled by another process while this one held it: it only pinned the memory.
                self.unpin(event.span, effects)
            elif event.bucket == EXPIRED:
                self.skip_held(event, subscriber, "expired", now_ns, effects)
            elif self.registry.topics.get(event.route.topic.name) is not event.route.topic:
                self.skip_held(event, subscriber, "its topic was unregistered", now_ns, effects)
            else:
                worth.append(event)
        return worth

    def skip_held(
        self, event: Unsettled, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]
    ) -> None:
        """Skip a delivery that left its endpoint and goes to nobody else."""
        subscriber.recent_skips.append((f"{event.sequence:#x}", reason))
        self.story.tell(now_ns, f"skipped for {subscriber.name}: {reason}", [event.sequence])
        self.settle_held(event, subscriber, Outcome.SKIPPED, effects)

    def _suspect(
        self, subscriber: SubscriberState, events: list[Unsettled], now_ns: int, effects: list[Effect]
    ) -> None:
        hopeless = []
        for event in reversed(events):
            crashes = subscriber.attempts[event.sequence] = subscriber.attempts.get(event.sequence, 0) + 1
            subscriber.suspects.appendleft(event)
            if crashes >= self._deliveries_max:
                hopeless.append(event)
        for event in hopeless:
            crashes = subscriber.attempts[event.sequence]
            self.give_up(event, subscriber, f"its process crashed {crashes} times with it", now_ns, effects)

    def skip_all_waiting(self, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]) -> None:
        """Skip everything that waits for a subscriber that is gone."""
        waiting = [event for event in (*subscriber.suspects, *subscriber.queue) if self.is_unsettled(event, subscriber)]
        subscriber.suspects.clear()
        subscriber.queue.clear()
        subscriber.attempts.clear()
        subscriber.stale = 0
        if not waiting:
            return
        effects.append(Warn(f"{subscriber.name}: skipped {len(waiting)} events that waited for it: {reason}"))
        subscriber.recent_skips.append((f"{len(waiting)} events", reason))
        self.story.tell(now_ns, f"skipped for {subscriber.name}: {reason}", [event.sequence for event in waiting])
        for event in waiting:
            self.dead_letter(event)
            self._count(event, subscriber, Outcome.SKIPPED)
            if not event.unsettled:
                self.finish(event, effects)

    def drop_topic(self, topic: Topic, effects: list[Effect]) -> None:
        """Settle what waits of a topic that was unregistered; what a process holds is let go when it settles."""
        events = list(topic.events.values())
        topic.events.clear()
        self.topic_emptied = True
        for event in events:
            for subscriber in event.route.subscribers:
                if self.is_unsettled(event, subscriber) and self.holder(event, subscriber) is None:
                    self.settle_queued(event, subscriber, Outcome.SKIPPED, effects)

    def holder(self, event: Unsettled, subscriber: SubscriberState) -> Endpoint | None:
        """The endpoint that holds this delivery, if it is SENT."""
        for link in self.links.values():
            endpoint = link.endpoints.get(subscriber.number)
            if endpoint is not None and endpoint.held.get(event.sequence) is event:
                return endpoint
        return None

    # --- what the end of a message does ---

    def serve_span_requests(self, effects: list[Effect]) -> None:
        """Give freed memory to those who wait, in order; the first that does not fit keeps its turn.

        Listeners come first: what they have in hand is what the others' memory waits for.
        """
        self.memory_freed = False
        for wanted in sorted(self.span_requests, key=lambda item: not item.reserve):
            if not self.grant(wanted, effects):
                return
            self.span_requests.remove(wanted)

    def drop_span_requests(self, link: int, length: int | None = None) -> None:
        """Forget what a link waits for: all, or what is of this length."""
        waiting = self.span_requests
        self.span_requests = deque(item for item in waiting if item.link != link or length not in (None, item.length))
        self.memory_freed = True  # Those behind it may fit.

    def grant(self, wanted: SpanRequest, effects: list[Effect]) -> bool:
        span = self.spans.allocate(wanted.length, wanted.link, effects, reserve=wanted.reserve)
        if span is None:
            return False
        self.links[wanted.link].spans[span.segment, span.start] = span
        effects.append(GrantSpan(wanted.link, span.segment, span.start, span.length, span.backed))
        return True

    def answer_drains(self, effects: list[Effect]) -> None:
        self.topic_emptied = False
        waiting = []
        for waiter in self.drains:
            if self.is_drained(waiter.pattern):
                effects.append(Reply(waiter.link, waiter.request, None))
            else:
                waiting.append(waiter)
        self.drains = waiting

    def is_drained(self, pattern: re.Pattern[str]) -> bool:
        return not any(topic.events and pattern.match(topic.name) for topic in self.registry.topics.values())
