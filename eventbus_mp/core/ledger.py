"""The ledger: the state that every decision shares, and the ways a delivery can end.

`bus.py` and `requests.py` decide what happens; here is how: settle, give up, take back, finish, recycle. Events come as
a run and a mask of its bits. Whatever makes work for later in the same message (a queue that grew, a span that came
free, a topic that ran empty) is noted and done once at its end, by `BusCore.handle`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from eventbus_mp.core.dispatcher import Endpoint, note_stale
from eventbus_mp.core.expiry import Expiry
from eventbus_mp.core.links import LEASES_MAX, Lease, LinkState
from eventbus_mp.core.registry import RECENT_SKIPS_MAX, Registry, Route, SubscriberState, Topic
from eventbus_mp.core.runs import Run, RunTable, bits
from eventbus_mp.core.spans import Span, SpanTable
from eventbus_mp.core.story import Story
from eventbus_mp.core.watcher import describe
from eventbus_mp.effects import Effect, GrantSpan, NameSkip, Reply, Warn
from eventbus_mp.errors import ProtocolError
from eventbus_mp.messages import Outcome

__all__ = ["DrainWaiter", "Ledger", "SpanRequest"]


class SpanRequest(NamedTuple):
    link: int
    length: int
    reserve: bool


class DrainWaiter(NamedTuple):
    link: int
    request: int
    pattern: re.Pattern[str]


class Ledger:
    def __init__(self, memory_bytes_max: int, deliveries_max: int, dead_letter_topic: str | None) -> None:
        self.registry = Registry()
        self.runs = RunTable()
        self.spans = SpanTable(memory_bytes_max)
        self.links: dict[int, LinkState] = {}
        self.story = Story()
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
        self._deliveries_max = deliveries_max
        self._dead_letter_topic = dead_letter_topic

    # --- the end of a delivery ---

    def settle_waiting(
        self, run: Run, mask: int, subscriber: SubscriberState, outcome: int, effects: list[Effect]
    ) -> None:
        """Settle deliveries that nobody holds: they wait in the queue, or are suspects."""
        row = run.route.row_of[subscriber.number]
        queued = run.waiting[row] & mask
        if queued:
            run.waiting[row] ^= queued
            subscriber.queued -= queued.bit_count()
            if not run.waiting[row]:
                note_stale(subscriber)
        for index in bits(mask ^ queued):
            del subscriber.attempts[run.first + index]
            subscriber.suspects.remove((run, 1 << index))
            self.dirty[subscriber] = None  # What waited behind it need not wait any longer.
        self._settle(run, mask, row, subscriber, outcome, effects)

    def settle_held(
        self, run: Run, mask: int, subscriber: SubscriberState, outcome: int, effects: list[Effect]
    ) -> None:
        """Settle deliveries that an endpoint held until now."""
        if subscriber.attempts:
            for index in bits(mask):
                subscriber.attempts.pop(run.first + index, None)
        self._settle(run, mask, run.route.row_of[subscriber.number], subscriber, outcome, effects)

    def _settle(
        self, run: Run, mask: int, row: int, subscriber: SubscriberState, outcome: int, effects: list[Effect]
    ) -> None:
        run.unsettled[row] ^= mask
        if outcome == Outcome.COMPLETED:
            run.completed[row] |= mask
            subscriber.completed += mask.bit_count()
        else:
            subscriber.skipped += mask.bit_count()
        finished = mask & ~run.any_unsettled()
        if finished:
            self._finish(run, finished, effects)

    def _finish(self, run: Run, mask: int, effects: list[Effect]) -> None:
        """All deliveries of these events are settled: forget them and let go of their memory."""
        run.live -= mask.bit_count()
        if len(run.topics) == 1:
            self._count_off(run.topics[0], mask.bit_count())
        else:
            for topic in run.topics_of(mask):
                self._count_off(topic, 1)
        if run.deadlines:
            self.expiry.discard(run, mask)
        for index in bits(mask & run.awaited):
            link = self.awaited.pop(run.first + index, None)
            if link is not None:
                effects.append(Reply(link, run.first + index, describe(run, 1 << index)))
        self.release(run, effects)

    def _count_off(self, topic: Topic, count: int) -> None:
        topic.unsettled -= count
        if not topic.unsettled:
            self.topic_emptied = True

    def release(self, run: Run, effects: list[Effect]) -> None:
        """Forget the run and unpin its span, once nobody has to settle or may be reading any of it."""
        if run.live or run.pins:
            return
        self.runs.remove(run)
        run.span.live -= 1
        self.recycle_if_free(run.span, effects)

    def unpin(self, run: Run, mask: int, effects: list[Effect]) -> None:
        """The holder of deliveries that others settled lets go of them."""
        run.pins -= mask.bit_count()
        self.release(run, effects)

    def recycle_if_free(self, span: Span, effects: list[Effect]) -> None:
        if span.recyclable:
            self.spans.recycle(span, effects)
            self.memory_freed = True

    # --- deliveries that the bus gives up ---

    def give_up(
        self, run: Run, bit: int, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]
    ) -> None:
        """Skip a delivery that nobody holds, for a reason of the bus; the dead letter topic gets the event."""
        self.name_skips(run, bit, subscriber, reason, effects, is_given_up=True)
        self.story.tell(now_ns, f"given up for {subscriber.name}: {reason}", run.first, bit)
        self.dead_letter(run, bit)
        self.settle_waiting(run, bit, subscriber, Outcome.SKIPPED, effects)

    def name_skips(
        self,
        run: Run,
        mask: int,
        subscriber: SubscriberState,
        reason: str,
        effects: list[Effect],
        *,
        is_given_up: bool = False,
    ) -> None:
        """Have skips of the bus appear in the statistics, the newest. Before they settle: then the memory may go."""
        for index in list(bits(mask))[-RECENT_SKIPS_MAX:]:
            topic, raw = run.topic_of(index).name, run.cut(1 << index)
            effects.append(NameSkip(subscriber.number, subscriber.name, topic, raw, reason, is_given_up))

    def dead_letter(self, run: Run, mask: int) -> None:
        """Deliver the same payloads to the dead letter topic's subscribers; nothing is copied.

        A subscriber that was told of an event itself is not told again.
        """
        topic = self.registry.topics.get(self._dead_letter_topic or "")
        if topic is None or run.is_letter:
            return
        told = run.route.row_of
        route = Route(tuple(item for item in topic.route.subscribers if item.number not in told))
        if not route.subscribers:
            return
        for index in bits(mask & ~run.lettered):
            if run.topic_of(index) is not topic:
                run.lettered |= 1 << index
                letter = Run(run.first + index, route, run.span, is_letter=True)
                self.enlist(letter, run.cut(1 << index), [topic], 1)

    def enlist(self, run: Run, raws: bytes, topics: list[Topic], count: int) -> int:
        """Append events to a run, new or the newest, and queue their deliveries: the mask of the new events.

        `topics` is one for all of them, or one for each.
        """
        if not run.count:
            self.runs.add(run)
            run.span.live += 1
        mask = run.add(raws, topics, count)
        for row, subscriber in enumerate(run.route.subscribers):
            if not run.waiting[row]:
                subscriber.queue.append(run)
            run.waiting[row] |= mask
            run.unsettled[row] |= mask
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
        waiting = [(run, run.waiting[run.route.row_of[number]]) for run in dict.fromkeys(subscriber.queue)]
        waiting = [*subscriber.suspects, *((run, mask) for run, mask in waiting if mask)]
        if not waiting:
            return
        count = subscriber.queued + len(subscriber.suspects)
        effects.append(Warn(f"{subscriber.name}: skipped {count} events that waited for it: {reason}"))
        subscriber.recent_skips.append((f"{count} events", reason))
        for run, mask in waiting:
            self.story.tell(now_ns, f"skipped for {subscriber.name}: {reason}", run.first, mask)
            self.dead_letter(run, mask)
            self.settle_waiting(run, mask, subscriber, Outcome.SKIPPED, effects)

    def drop_topic(self, topic: Topic, effects: list[Effect]) -> None:
        """Settle what waits of a topic that was unregistered; what a process holds is let go when it settles."""
        self.topic_emptied = True
        for run in list(self.runs):
            mask = run.of_topic(topic)
            if mask:
                self.skip_waiting(run, mask, effects)

    def skip_waiting(self, run: Run, mask: int, effects: list[Effect], named_for: str = "") -> None:
        """Skip these events for whom they wait, and not for whom they are in hand; with a reason, name them."""
        for row, subscriber in enumerate(run.route.subscribers):
            waits = mask & run.waiting[row]
            for index in bits(mask & run.unsettled[row] & ~waits) if subscriber.suspects else ():
                waits |= (1 << index) * ((run, 1 << index) in subscriber.suspects)
            if waits and named_for:
                self.name_skips(run, waits, subscriber, named_for, effects)
            if waits:
                self.settle_waiting(run, waits, subscriber, Outcome.SKIPPED, effects)

    # --- deliveries that come back ---

    def take_back(self, endpoint: Endpoint, crashed: bool, now_ns: int, effects: list[Effect]) -> None:
        """The endpoint is gone: what it holds goes back to the front, oldest first."""
        subscriber, held = endpoint.subscriber, list(endpoint.held.items())
        endpoint.held.clear()
        endpoint.holding = 0
        if crashed:
            returned = self._worth_returning(subscriber, held, now_ns, effects)
            self._tell_returned(subscriber, "its process crashed", returned, now_ns)
            self._suspect(subscriber, returned, now_ns, effects)
        else:
            self.return_to_front(subscriber, held, now_ns, effects)

    def return_to_front(
        self, subscriber: SubscriberState, events: list[tuple[Run, int]], now_ns: int, effects: list[Effect]
    ) -> None:
        """Queue events again without counting an attempt; suspects stay suspects."""
        returned = self._worth_returning(subscriber, events, now_ns, effects)
        for run, mask in reversed(returned):
            fresh = mask
            for index in reversed(list(bits(mask))) if subscriber.attempts else ():
                if run.first + index in subscriber.attempts:
                    subscriber.suspects.appendleft((run, 1 << index))
                    fresh ^= 1 << index
            if fresh:
                row = run.route.row_of[subscriber.number]
                if not run.waiting[row]:
                    subscriber.queue.appendleft(run)
                run.waiting[row] |= fresh
                subscriber.queued += fresh.bit_count()
        self._tell_returned(subscriber, "handed back", returned, now_ns)

    def _tell_returned(
        self, subscriber: SubscriberState, what: str, returned: list[tuple[Run, int]], now_ns: int
    ) -> None:
        for run, mask in returned:
            subscriber.redelivered += mask.bit_count()
            self.dirty[subscriber] = None
            self.story.tell(now_ns, f"{subscriber.name}: {what}", run.first, mask)

    def _worth_returning(
        self, subscriber: SubscriberState, events: list[tuple[Run, int]], now_ns: int, effects: list[Effect]
    ) -> list[tuple[Run, int]]:
        """Those of `events`, which nobody holds any more, that somebody else is to get."""
        worth = []
        for run, mask in events:
            back = mask & run.unsettled[run.route.row_of[subscriber.number]]
            expired = back & run.expired
            homeless = back & run.without_topic() & ~expired
            for useless, reason in ((expired, "expired"), (homeless, "its topic was unregistered")):
                if useless:
                    self._skip_held(run, useless, subscriber, reason, now_ns, effects)
            if back != mask:
                # Settled by another process while this one held it: it only pinned the memory.
                self.unpin(run, mask ^ back, effects)
            back &= ~(expired | homeless)
            if back:
                worth.append((run, back))
        return worth

    def _skip_held(
        self, run: Run, mask: int, subscriber: SubscriberState, reason: str, now_ns: int, effects: list[Effect]
    ) -> None:
        """Skip deliveries that left their endpoint and go to nobody else."""
        self.name_skips(run, mask, subscriber, reason, effects)
        self.story.tell(now_ns, f"skipped for {subscriber.name}: {reason}", run.first, mask)
        self.settle_held(run, mask, subscriber, Outcome.SKIPPED, effects)

    def _suspect(
        self, subscriber: SubscriberState, events: list[tuple[Run, int]], now_ns: int, effects: list[Effect]
    ) -> None:
        hopeless = []
        for run, mask in reversed(events):
            for index in reversed(list(bits(mask))):
                sequence = run.first + index
                crashes = subscriber.attempts[sequence] = subscriber.attempts.get(sequence, 0) + 1
                subscriber.suspects.appendleft((run, 1 << index))
                if crashes >= self._deliveries_max:
                    hopeless.append((run, 1 << index, crashes))
        for run, bit, crashes in hopeless:
            self.give_up(run, bit, subscriber, f"its process crashed {crashes} times with it", now_ns, effects)

    def holder(self, run: Run, bit: int, subscriber: SubscriberState) -> Endpoint | None:
        """The endpoint that holds this delivery, if it is SENT."""
        for link in self.links.values():
            endpoint = link.endpoints.get(subscriber.number)
            if endpoint is not None and endpoint.held.get(run, 0) & bit:
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
