"""The ledger: the state that every decision shares, and the ways a delivery can end.

`bus.py` and `requests.py` decide what happens; here is how: settle, give up, take back, finish, recycle. Events come as
a run and a mask of its bits. Whatever makes work for later in the same message (a queue that grew, a span that came
free, a topic that ran empty) is noted and done once at its end, by `BusCore.handle`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from eventbus_mp.core.batches import BatchTable, EventBatch, bits
from eventbus_mp.core.dispatcher import Endpoint, note_stale
from eventbus_mp.core.event_log import EventLog
from eventbus_mp.core.expiry import Expiry
from eventbus_mp.core.links import LEASES_MAX, Lease, LinkState
from eventbus_mp.core.registry import RECENT_SKIPS_MAX, Registry, Route, SubscriberState, Topic
from eventbus_mp.core.spans import Span, SpanTable
from eventbus_mp.core.transitions import describe
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol.effects import Effect, GrantSpan, NameSkip, Reply, Warn
from eventbus_mp.protocol.messages import Outcome

__all__ = ["DrainWaiter", "BusState", "SpanRequest"]


class SpanRequest(NamedTuple):
    link: int
    length: int
    reserve: bool


class DrainWaiter(NamedTuple):
    link: int
    request: int
    pattern: re.Pattern[str]


class BusState:
    def __init__(self, memory_bytes_max: int, crashes_max: int, dead_letter_topic: str | None) -> None:
        self.registry = Registry()
        self.batches = BatchTable()
        self.spans = SpanTable(memory_bytes_max)
        self.links: dict[int, LinkState] = {}
        self.event_log = EventLog()
        self.expiry = Expiry()
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
        self._crashes_max = crashes_max
        self._dead_letter_topic = dead_letter_topic

    # --- the end of a delivery ---

    def settle_waiting(
        self, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int, effects: list[Effect]
    ) -> None:
        """Settle deliveries that nobody holds: they wait in the queue, or are suspects."""
        row = batch.route.row_of[subscriber.number]
        queued = batch.waiting[row] & mask
        if queued:
            batch.waiting[row] ^= queued
            subscriber.queued -= queued.bit_count()
            if not batch.waiting[row]:
                note_stale(subscriber)
        for index in bits(mask ^ queued):
            del subscriber.attempts[batch.first + index]
            subscriber.quarantine.remove((batch, 1 << index))
            self.dirty[subscriber] = None  # What waited behind it need not wait any longer.
        self._settle(batch, mask, row, subscriber, outcome, effects)

    def settle_held(
        self, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int, effects: list[Effect]
    ) -> None:
        """Settle deliveries that an endpoint held until now."""
        if subscriber.attempts:
            for index in bits(mask):
                subscriber.attempts.pop(batch.first + index, None)
        self._settle(batch, mask, batch.route.row_of[subscriber.number], subscriber, outcome, effects)

    def _settle(
        self, batch: EventBatch, mask: int, row: int, subscriber: SubscriberState, outcome: int, effects: list[Effect]
    ) -> None:
        batch.unsettled[row] ^= mask
        if outcome == Outcome.COMPLETED:
            batch.completed[row] |= mask
            subscriber.completed += mask.bit_count()
        else:
            subscriber.skipped += mask.bit_count()
        finished = mask & ~batch.any_unsettled()
        if finished:
            self._finish(batch, finished, effects)

    def _finish(self, batch: EventBatch, mask: int, effects: list[Effect]) -> None:
        """All deliveries of these events are settled: forget them and let go of their memory."""
        batch.live -= mask.bit_count()
        if len(batch.topics) == 1:
            self._count_off(batch.topics[0], mask.bit_count())
        else:
            for topic in batch.topics_of(mask):
                self._count_off(topic, 1)
        if batch.deadlines:
            self.expiry.discard(batch, mask)
        for index in bits(mask & batch.awaited):
            link = self.awaited.pop(batch.first + index, None)
            if link is not None:
                effects.append(Reply(link, batch.first + index, describe(batch, 1 << index)))
        self.release(batch, effects)

    def _count_off(self, topic: Topic, count: int) -> None:
        topic.unsettled -= count
        if not topic.unsettled:
            self.topic_emptied = True

    def release(self, batch: EventBatch, effects: list[Effect]) -> None:
        """Forget the run and unpin its span, once nobody has to settle or may be reading any of it."""
        if batch.live or batch.pins:
            return
        self.batches.remove(batch)
        batch.span.live -= 1
        self.recycle_if_free(batch.span, effects)

    def unpin(self, batch: EventBatch, mask: int, effects: list[Effect]) -> None:
        """The holder of deliveries that others settled lets go of them."""
        batch.pins -= mask.bit_count()
        self.release(batch, effects)

    def recycle_if_free(self, span: Span, effects: list[Effect]) -> None:
        if span.recyclable:
            self.spans.recycle(span, effects)
            self.memory_freed = True

    # --- deliveries that the bus gives up ---

    def give_up(
        self, batch: EventBatch, bit: int, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]
    ) -> None:
        """Skip a delivery that nobody holds, for a reason of the bus; the dead letter topic gets the event."""
        self.name_skips(batch, bit, subscriber, reason, effects, is_given_up=True)
        self.event_log.record(now_ns, f"given up for {subscriber.name}: {reason}", batch.first, bit)
        self.dead_letter(batch, bit)
        self.settle_waiting(batch, bit, subscriber, Outcome.SKIPPED, effects)

    def name_skips(
        self,
        batch: EventBatch,
        mask: int,
        subscriber: SubscriberState,
        reason: str,
        effects: list[Effect],
        *,
        is_given_up: bool = False,
    ) -> None:
        """Have skips of the bus appear in the statistics, the newest. Before they settle: then the memory may go."""
        for index in list(bits(mask))[-RECENT_SKIPS_MAX:]:
            topic, packed_record = batch.topic_of(index).name, batch.cut(1 << index)
            effects.append(NameSkip(subscriber.number, subscriber.name, topic, packed_record, reason, is_given_up))

    def dead_letter(self, batch: EventBatch, mask: int) -> None:
        """Deliver the same payloads to the dead letter topic's subscribers; nothing is copied.

        A subscriber that was told of an event itself is not told again.
        """
        topic = self.registry.topics.get(self._dead_letter_topic or "")
        if topic is None or batch.is_dead_letter:
            return
        told = batch.route.row_of
        route = Route(tuple(item for item in topic.route.subscribers if item.number not in told))
        if not route.subscribers:
            return
        for index in bits(mask & ~batch.dead_lettered):
            if batch.topic_of(index) is not topic:
                batch.dead_lettered |= 1 << index
                letter = EventBatch(batch.first + index, route, batch.span, is_dead_letter=True)
                self.append_batch(letter, batch.cut(1 << index), [topic], 1)

    def append_batch(self, batch: EventBatch, packed: bytes, topics: list[Topic], count: int) -> int:
        """Append events to a run, new or the newest, and queue their deliveries: the mask of the new events.

        `topics` is one for all of them, or one for each.
        """
        if not batch.count:
            self.batches.add(batch)
            batch.span.live += 1
        mask = batch.add(packed, topics, count)
        for row, subscriber in enumerate(batch.route.subscribers):
            if not batch.waiting[row]:
                subscriber.queue.append(batch)
            batch.waiting[row] |= mask
            batch.unsettled[row] |= mask
            subscriber.queued += count
            self.dirty[subscriber] = None
        if len(topics) == 1:
            topics[0].unsettled += count
        else:
            for topic in topics:
                topic.unsettled += 1
        return mask

    def skip_all_waiting(self, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]) -> None:
        """Skip everything that waits for a subscriber that is gone."""
        number = subscriber.number
        waiting = [(batch, batch.waiting[batch.route.row_of[number]]) for batch in dict.fromkeys(subscriber.queue)]
        waiting = [*subscriber.quarantine, *((batch, mask) for batch, mask in waiting if mask)]
        if not waiting:
            return
        count = subscriber.queued + len(subscriber.quarantine)
        effects.append(Warn(f"{subscriber.name}: skipped {count} events that waited for it: {reason}"))
        subscriber.recent_skips.append((f"{count} events", reason))
        for batch, mask in waiting:
            self.event_log.record(now_ns, f"skipped for {subscriber.name}: {reason}", batch.first, mask)
            self.dead_letter(batch, mask)
            self.settle_waiting(batch, mask, subscriber, Outcome.SKIPPED, effects)

    def drop_topic(self, topic: Topic, effects: list[Effect]) -> None:
        """Settle what waits of a topic that was unregistered; what a process holds is let go when it settles."""
        self.topic_emptied = True
        for batch in list(self.batches):
            mask = batch.of_topic(topic)
            if mask:
                self.skip_waiting(batch, mask, effects)

    def skip_waiting(self, batch: EventBatch, mask: int, effects: list[Effect], named_for: str = "") -> None:
        """Skip these events for whom they wait, and not for whom they are in hand; with a reason, name them."""
        for row, subscriber in enumerate(batch.route.subscribers):
            waits = mask & batch.waiting[row]
            for index in bits(mask & batch.unsettled[row] & ~waits) if subscriber.quarantine else ():
                waits |= (1 << index) * ((batch, 1 << index) in subscriber.quarantine)
            if waits and named_for:
                self.name_skips(batch, waits, subscriber, named_for, effects)
            if waits:
                self.settle_waiting(batch, waits, subscriber, Outcome.SKIPPED, effects)

    # --- deliveries that come back ---

    def reclaim(self, endpoint: Endpoint, crashed: bool, now_ns: int, effects: list[Effect]) -> None:
        """The endpoint is gone: what it holds goes back to the front, oldest first."""
        subscriber, in_flight = endpoint.subscriber, list(endpoint.in_flight.items())
        endpoint.in_flight.clear()
        endpoint.in_flight_count = 0
        if crashed:
            returned = self._still_wanted(subscriber, in_flight, now_ns, effects)
            self._record_returned(subscriber, "its process crashed", returned, now_ns)
            self._quarantine_crashed(subscriber, returned, now_ns, effects)
        else:
            self.return_to_front(subscriber, in_flight, now_ns, effects)

    def return_to_front(
        self, subscriber: SubscriberState, events: list[tuple[EventBatch, int]], now_ns: int, effects: list[Effect]
    ) -> None:
        """Queue events again without counting an attempt; suspects stay suspects."""
        returned = self._still_wanted(subscriber, events, now_ns, effects)
        for batch, mask in reversed(returned):
            fresh = mask
            for index in reversed(list(bits(mask))) if subscriber.attempts else ():
                if batch.first + index in subscriber.attempts:
                    subscriber.quarantine.appendleft((batch, 1 << index))
                    fresh ^= 1 << index
            if fresh:
                row = batch.route.row_of[subscriber.number]
                if not batch.waiting[row]:
                    subscriber.queue.appendleft(batch)
                batch.waiting[row] |= fresh
                subscriber.queued += fresh.bit_count()
        self._record_returned(subscriber, "handed back", returned, now_ns)

    def _record_returned(
        self, subscriber: SubscriberState, what: str, returned: list[tuple[EventBatch, int]], now_ns: int
    ) -> None:
        for batch, mask in returned:
            subscriber.redelivered += mask.bit_count()
            self.dirty[subscriber] = None
            self.event_log.record(now_ns, f"{subscriber.name}: {what}", batch.first, mask)

    def _still_wanted(
        self, subscriber: SubscriberState, events: list[tuple[EventBatch, int]], now_ns: int, effects: list[Effect]
    ) -> list[tuple[EventBatch, int]]:
        """Those of `events`, which nobody holds any more, that somebody else is to get."""
        min_batch = []
        for batch, mask in events:
            back = mask & batch.unsettled[batch.route.row_of[subscriber.number]]
            expired = back & batch.expired
            homeless = back & batch.without_topic() & ~expired
            for useless, reason in ((expired, "expired"), (homeless, "its topic was unregistered")):
                if useless:
                    self._skip_held(batch, useless, subscriber, reason, now_ns, effects)
            if back != mask:
                # Settled by another process while this one held it: it only pinned the memory.
                self.unpin(batch, mask ^ back, effects)
            back &= ~(expired | homeless)
            if back:
                min_batch.append((batch, back))
        return min_batch

    def _skip_held(
        self, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]
    ) -> None:
        """Skip deliveries that left their endpoint and go to nobody else."""
        self.name_skips(batch, mask, subscriber, reason, effects)
        self.event_log.record(now_ns, f"skipped for {subscriber.name}: {reason}", batch.first, mask)
        self.settle_held(batch, mask, subscriber, Outcome.SKIPPED, effects)

    def _quarantine_crashed(
        self, subscriber: SubscriberState, events: list[tuple[EventBatch, int]], now_ns: int, effects: list[Effect]
    ) -> None:
        hopeless = []
        for batch, mask in reversed(events):
            for index in reversed(list(bits(mask))):
                sequence = batch.first + index
                crashes = subscriber.attempts[sequence] = subscriber.attempts.get(sequence, 0) + 1
                subscriber.quarantine.appendleft((batch, 1 << index))
                if crashes >= self._crashes_max:
                    hopeless.append((batch, 1 << index, crashes))
        for batch, bit, crashes in hopeless:
            self.give_up(batch, bit, subscriber, f"its process crashed {crashes} times with it", now_ns, effects)

    def holder(self, batch: EventBatch, bit: int, subscriber: SubscriberState) -> Endpoint | None:
        """The endpoint that holds this delivery, if it is SENT."""
        for link in self.links.values():
            endpoint = link.endpoints.get(subscriber.number)
            if endpoint is not None and endpoint.in_flight.get(batch, 0) & bit:
                return endpoint
        return None

    # --- leases ---

    def lease(
        self, link: LinkState, sequence: int, span: Span, topic: str, offset: int, length: int, now_ns: int
    ) -> None:
        """Keep the span from recycling until the link has released the event as often as it leased it."""
        lease = link.leases.get(sequence)
        if lease is None:
            if len(link.leases) >= LEASES_MAX:
                raise ProtocolError(f"it has views into {LEASES_MAX} events")
            lease = link.leases[sequence] = Lease(span, topic, offset, length, now_ns)
            span.leases += 1
        lease.views += 1

    def unlease(self, lease: Lease, effects: list[Effect]) -> None:
        lease.span.leases -= 1
        self.recycle_if_free(lease.span, effects)

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
        return not any(topic.unsettled and pattern.match(topic.name) for topic in self.registry.topics.values())
