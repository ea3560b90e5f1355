"""BusCore: all decisions of the manager as one pure object.

Feed every message to :meth:`BusCore.handle` and perform the returned effects in order, before the next call. The core
never blocks, reads no clock and touches no file, so the same messages always give the same effects.

Effects come in this order: what the message itself causes (replies after the state they promise), then deliveries,
then spans for those who waited, then the answers to drains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, ClassVar

from eventbus_mp.config import BusConfig
from eventbus_mp.core.batches import SEQUENCE_BUCKET_SHIFT, EventBatch
from eventbus_mp.core.dispatcher import Endpoint, dispatch
from eventbus_mp.core.ingest import ingest
from eventbus_mp.core.invariants import check_invariants
from eventbus_mp.core.links import LinkState, check_waits
from eventbus_mp.core.registry import RECENT_SKIPS_MAX, SubscriberState
from eventbus_mp.core.requests import REQUEST_HANDLERS, UNANSWERED
from eventbus_mp.core.spans import Span
from eventbus_mp.core.state import BusState, SpanRequest
from eventbus_mp.errors import InternalError, ProtocolError, UsageError
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol.effects import CloseLink, Effect, GrantSpan, Refuse, Reply, Stop, WarnOfLease
from eventbus_mp.protocol.messages import (
    SPAN_AHEAD,
    SPAN_CANCELLED,
    SPAN_RESERVE,
    DeliveriesSettled,
    EventsNotified,
    LinkLost,
    LinkOpened,
    ManagerReplaced,
    Message,
    Outcome,
    SkipNamed,
    SpanLeased,
    SpanReleased,
    SpanSealed,
    SpanWanted,
    TimePassed,
)
from eventbus_mp.protocol.requests import Request

__all__ = ["BusCore"]

AHEAD_SHARE = 3 / 4
"""Spans are leased ahead only while less than this share of the memory is in use."""
_OUTCOME_NAMES = {outcome.value: outcome.name.lower() for outcome in Outcome}


class BusCore:
    """The registry, the watcher, the dispatcher and the span table behind one method.

    Args:
        config: The bus-wide settings; `memory_bytes_max` must be a number here.
        now_ns: The monotonic time that later calls go on from.
    """

    def __init__(self, config: BusConfig, now_ns: int) -> None:
        assert config.memory_bytes_max is not None
        self.config = config
        self.state = BusState(config.memory_bytes_max, config.crashes_max, config.dead_letter_topic)
        self.stopping = False
        self.effects: list[Effect] = []
        """The effects of the message in hand."""
        self.idle_deadline_ns: int | None = now_ns + int(max(config.manager_idle_s, config.connect_timeout_s) * 1e9)
        """When to leave because nobody is connected; the first process gets the time it needs to come."""
        self.lease_check_ns: int | None = None
        """When to look for leases that are too old; None: there is none to look at."""
        self._lease_warning_ns = int(config.lease_warning_s * 1e9)
        if config.dead_letter_topic is not None:
            self.state.registry.register(config.dead_letter_topic)

    def handle(self, message: Message, now_ns: int) -> list[Effect]:
        """Decide. A message that breaks the protocol closes its link; it never raises for bad input.

        Raises:
            InternalError: A bug of ours.
        """
        effects: list[Effect] = []
        self.effects = effects
        state = self.state
        try:
            self._HANDLERS[type(message)](self, message, now_ns, effects)
        except ProtocolError as error:
            effects.append(CloseLink(message.link, str(error)))  # type: ignore[union-attr]
        except UsageError as error:
            assert isinstance(message, Request)
            effects.append(Refuse(message.link, message.request, type(error).__name__, str(error)))
        for subscriber in state.dirty:
            dispatch(subscriber, state.event_log, now_ns, effects)
        state.dirty.clear()
        if state.memory_freed:
            state.serve_span_requests(effects)
        if state.topic_emptied and state.drains:
            state.answer_drains(effects)
        if self.config.check_invariants:
            self.check_invariants()
        return effects

    def next_due_ns(self) -> int | None:
        """When `TimePassed` has something to do; None: never, until another message comes."""
        state = self.state
        expiry_ns = state.expiry.next_due_ns()
        if expiry_ns is None and self.idle_deadline_ns is None and self.lease_check_ns is None and not state.orphans:
            return None  # As it mostly is.
        dues = (*state.orphans.values(), self.idle_deadline_ns, self.lease_check_ns, expiry_ns)
        return min(due for due in dues if due is not None)

    def check_invariants(self) -> None:
        """Raise `InternalError` when something that must always be true is not (design: ARCHITECTURE.md)."""
        try:
            check_invariants(self.state)
        except AssertionError as error:
            raise InternalError(f"invariant broken: {error}") from error

    def event_log(self, sequence: int) -> list[str]:
        """What the core remembers of one event."""
        return self.state.event_log.of(sequence)

    # --- the data path ---

    def _on_notified(self, message: EventsNotified, now_ns: int, effects: list[Effect]) -> None:
        link = self._link(message.link)
        count = len(message.topics)
        last = message.first + count - 1
        if not link.last_sequence < message.first or last >> SEQUENCE_LINK_SHIFT != link.number:
            raise ProtocolError(f"sequence {message.first:#x} does not follow {link.last_sequence:#x}")
        link.last_sequence = last
        self.state.events_notified += count
        start = 0
        while start < count:
            start = ingest(self.state, link, message, start, now_ns, effects)

    def _on_settled(self, message: DeliveriesSettled, now_ns: int, effects: list[Effect]) -> None:
        state = self.state
        link = self._link(message.link)
        endpoint = link.endpoints.get(message.subscriber)
        if endpoint is None:
            return  # A repeated settle of a subscriber that this process no longer hosts.
        taken: list[tuple[EventBatch, int]] = []
        for first, count in message.ranges:
            self._take_from(endpoint, first, first + count - 1, taken)
        if message.outcome == Outcome.RETURNED:
            self._return(endpoint, taken, now_ns, effects)
            return
        subscriber, outcome, settled = endpoint.subscriber, message.outcome, 0
        what = f"{_OUTCOME_NAMES[outcome]} by {subscriber.name}"
        for batch, mask in taken:
            late = mask & ~batch.unsettled[batch.route.row_of[subscriber.number]]
            if late:
                state.unpin(batch, late, effects)
                mask ^= late
            if mask:
                settled += mask.bit_count()
                state.event_log.record(now_ns, what, batch.first, mask)
                if outcome == Outcome.FAILED:
                    state.dead_letter(batch, mask)
                state.settle_held(batch, mask, subscriber, outcome, effects)
        if settled:
            endpoint.update_credit(settled, now_ns, message.cost_ns)
        self.after_release(link, subscriber)

    def _take_from(self, endpoint: Endpoint, first: int, last: int, taken: list[tuple[EventBatch, int]]) -> None:
        """Take the events from `first` to `last` out of its hands; what is not there was settled before."""
        in_flight, bucket, last_bucket = (
            endpoint.in_flight,
            first >> SEQUENCE_BUCKET_SHIFT,
            last >> SEQUENCE_BUCKET_SHIFT,
        )
        batches: Iterable[EventBatch]
        if bucket == last_bucket:
            batches = self.state.batches.in_bucket(bucket)
        elif last_bucket - bucket >= len(in_flight):
            batches = list(in_flight)
        else:
            batches = chain.from_iterable(map(self.state.batches.in_bucket, range(bucket, last_bucket + 1)))
        for batch in batches:
            if batch in in_flight:
                mask = endpoint.release_in_flight(batch, batch.between(first, last))
                if mask:
                    taken.append((batch, mask))

    def _return(
        self, endpoint: Endpoint, taken: list[tuple[EventBatch, int]], now_ns: int, effects: list[Effect]
    ) -> None:
        """Deliveries handed back untouched go to the front again."""
        state, subscriber = self.state, endpoint.subscriber
        # In the order they were notified in, however they come back.
        merged: dict[EventBatch, int] = {}
        for batch, mask in sorted(taken, key=lambda item: item[0].first):
            merged[batch] = merged.get(batch, 0) | mask
        state.return_to_front(subscriber, list(merged.items()), now_ns, effects)
        if not state.registry.is_subscribed(subscriber):
            state.skip_all_waiting(subscriber, "it was unsubscribed", now_ns, effects)
        self.after_release(self._link(endpoint.link), subscriber)

    def after_release(self, link: LinkState, subscriber: SubscriberState) -> None:
        """Something left an endpoint's hands: there may be credit now, or the endpoint may be done."""
        if self.state.registry.is_subscribed(subscriber):
            self.state.dirty[subscriber] = None
        elif not link.endpoints[subscriber.number].in_flight:
            del link.endpoints[subscriber.number]
            self.forget_if_done(subscriber)

    def forget_if_done(self, subscriber: SubscriberState) -> None:
        if not any(subscriber.number in link.endpoints for link in self.state.links.values()):
            self.state.registry.forget(subscriber)

    # --- spans ---

    def _on_span_wanted(self, message: SpanWanted, now_ns: int, effects: list[Effect]) -> None:
        state = self.state
        link = self._link(message.link)
        if message.urgency == SPAN_CANCELLED:
            state.drop_span_requests(link.number, message.length)
            return
        wanted = SpanRequest(link.number, message.length, message.urgency == SPAN_RESERVE)
        if message.length < 1:
            raise ProtocolError(f"a span of {message.length} bytes was asked for")
        if not state.spans.fits(message.length):
            effects.append(GrantSpan(link.number, 0, 0, message.length, True))
        elif message.urgency == SPAN_AHEAD:
            crowded = state.spans.used_bytes + message.length > state.spans.memory_bytes_max * AHEAD_SHARE
            if crowded or state.span_requests or not state.grant(wanted, effects):
                effects.append(GrantSpan(link.number, 0, 0, message.length, False))
        elif not (wanted.reserve or not state.span_requests) or not state.grant(wanted, effects):
            check_waits(sum(item.link == link.number for item in state.span_requests), "spans")
            state.span_requests.append(wanted)

    def _on_span_sealed(self, message: SpanSealed, now_ns: int, effects: list[Effect]) -> None:
        link = self._link(message.link)
        span = self.state.spans.find(message.segment, message.offset)
        if span is None or link.spans.pop((span.segment, span.start), None) is None:
            raise ProtocolError(f"it sealed {message.segment}+{message.offset}, which it does not write")
        span.sealed = True
        self.state.recycle_if_free(span, effects)

    def _on_span_leased(self, message: SpanLeased, now_ns: int, effects: list[Effect]) -> None:
        link = self._link(message.link)
        span = self.state.spans.find(message.segment, message.offset)
        if span is None or message.offset + message.length > span.end:
            raise ProtocolError(f"it leased {message.segment}+{message.offset}, where nothing is")
        topic = self.state.registry.topic_by_number.get(message.topic)
        name = topic.name if topic is not None else f"number {message.topic}"
        self.lease(link, message.sequence, span, name, message.offset, message.length, now_ns)

    def lease(
        self, link: LinkState, sequence: int, span: Span, topic: str, offset: int, length: int, now_ns: int
    ) -> None:
        """Keep the span from recycling until the link has released the event as often as it leased it."""
        self.state.lease(link, sequence, span, topic, offset, length, now_ns)
        if self.lease_check_ns is None:
            self.lease_check_ns = now_ns + self._lease_warning_ns

    def _on_span_released(self, message: SpanReleased, now_ns: int, effects: list[Effect]) -> None:
        link = self._link(message.link)
        lease = link.leases.get(message.sequence)
        if lease is None:
            raise ProtocolError(f"it released event {message.sequence:#x}, which it does not lease")
        lease.views -= 1
        if not lease.views:
            del link.leases[message.sequence]
            self.state.unlease(lease, effects)

    def _warn_of_leases(self, now_ns: int, effects: list[Effect]) -> None:
        """Tell once of each lease that is older than `lease_warning_s`."""
        waiting = []
        for link in self.state.links.values():
            for sequence, lease in link.leases.items():
                age_ns = now_ns - lease.since_ns
                if lease.is_warned:
                    continue
                if age_ns < self._lease_warning_ns:
                    waiting.append(lease.since_ns + self._lease_warning_ns)
                    break  # Those that follow are younger.
                lease.is_warned = True
                at = lease.span.segment, lease.offset, lease.length
                effects.append(WarnOfLease(link.pid, lease.topic, *at, sequence, age_ns / 1e9))
        self.lease_check_ns = min(waiting, default=None)

    # --- processes and time ---

    def _on_manager_replaced(self, message: ManagerReplaced, now_ns: int, effects: list[Effect]) -> None:
        for link in self.state.links.values():
            link.begin_resync(message.pid)

    def _link(self, number: int) -> LinkState:
        try:
            return self.state.links[number]
        except KeyError:
            # What one read brought may go on after the message that ended the link.
            raise ProtocolError("it is cut off already") from None

    def _on_link_opened(self, message: LinkOpened, now_ns: int, effects: list[Effect]) -> None:
        self.state.links[message.link] = LinkState(message.link, message.pid)
        self.idle_deadline_ns = None

    def _on_link_lost(self, message: LinkLost, now_ns: int, effects: list[Effect]) -> None:
        state = self.state
        link = self._link(message.link)
        del state.links[message.link]
        crashed = message.crashed and not link.leaving
        # First what it waits for: nobody is there to be answered.
        for waiting in [sequence for sequence, owner in state.awaited.items() if owner == link.number]:
            del state.awaited[waiting]
        state.drains = [waiter for waiter in state.drains if waiter.link != link.number]
        for endpoint in link.endpoints.values():
            self.drop_endpoint(link, endpoint, crashed=crashed, now_ns=now_ns, effects=effects)
        for lease in link.leases.values():
            state.unlease(lease, effects)
        for span in link.spans.values():
            span.sealed = True
            state.recycle_if_free(span, effects)
        state.drop_span_requests(link.number)
        self.give_up_orphans(now_ns, effects)
        if not state.links:
            self.idle_deadline_ns = now_ns + int(self.config.manager_idle_s * 1e9)

    def drop_endpoint(
        self, link: LinkState, endpoint: Endpoint, *, crashed: bool, now_ns: int, effects: list[Effect]
    ) -> None:
        """A process no longer hosts `subscriber`: what it holds comes back, and the last one starts the grace."""
        state, subscriber = self.state, endpoint.subscriber
        if endpoint in subscriber.endpoints:
            subscriber.endpoints.remove(endpoint)
        state.reclaim(endpoint, crashed, now_ns, effects)
        if not state.registry.is_subscribed(subscriber):
            state.skip_all_waiting(subscriber, "it was unsubscribed", now_ns, effects)
            self.forget_if_done(subscriber)
        elif not subscriber.endpoints:
            orphan_grace_s = 0 if subscriber.broadcast else self.config.orphan_grace_s
            # Whoever is due at once is given up at the end of the message, when nothing is half taken back.
            state.orphans[subscriber] = now_ns + int(orphan_grace_s * 1e9)

    def _on_time_passed(self, message: TimePassed, now_ns: int, effects: list[Effect]) -> None:
        state = self.state
        due = state.expiry.due(now_ns)
        left = sum(mask.bit_count() for _, mask in due)
        for batch, mask in due:
            # Only the latest are named: no more are remembered, and each costs a look into its payload.
            is_named = left - mask.bit_count() < RECENT_SKIPS_MAX
            self._expire(batch, mask, is_named, now_ns, effects)
            left -= mask.bit_count()
        if self.lease_check_ns is not None and self.lease_check_ns <= now_ns:
            self._warn_of_leases(now_ns, effects)
        self.give_up_orphans(now_ns, effects)
        if self.idle_deadline_ns is not None and self.idle_deadline_ns <= now_ns and not self.stopping:
            self.stopping = True
            effects.append(Stop())

    def give_up_orphans(self, now_ns: int, effects: list[Effect]) -> None:
        """Skip what waits for subscribers that nobody has hosted for too long."""
        state = self.state
        for subscriber in [item for item, due in state.orphans.items() if due <= now_ns]:
            del state.orphans[subscriber]
            state.registry.unsubscribe(subscriber)
            reason = (
                "its process left"
                if subscriber.broadcast
                else f"no process hosted it for {self.config.orphan_grace_s:g} s"
            )
            state.skip_all_waiting(subscriber, reason, now_ns, effects)
            self.forget_if_done(subscriber)

    def _expire(self, batch: EventBatch, mask: int, is_named: bool, now_ns: int, effects: list[Effect]) -> None:
        batch.expired |= mask
        self.state.event_log.record(now_ns, "expired", batch.first, mask)
        self.state.skip_waiting(batch, mask, effects, "expired" if is_named else "")

    def _on_skip_named(self, message: SkipNamed, now_ns: int, effects: list[Effect]) -> None:
        subscriber = self.state.registry.subscriber_by_number.get(message.subscriber)
        if subscriber is not None:  # else: it was forgotten with that
            subscriber.recent_skips.append((message.event_id, message.reason))

    def _on_request(self, message: Request, now_ns: int, effects: list[Effect]) -> None:
        value = REQUEST_HANDLERS[type(message)](self, self._link(message.link), message, now_ns)
        if value is not UNANSWERED:
            effects.append(Reply(message.link, message.request, value))

    _HANDLERS: ClassVar[dict[type, Callable[[BusCore, Any, int, list[Effect]], None]]] = {
        EventsNotified: _on_notified,
        DeliveriesSettled: _on_settled,
        SpanWanted: _on_span_wanted,
        SpanSealed: _on_span_sealed,
        SpanLeased: _on_span_leased,
        SpanReleased: _on_span_released,
        LinkOpened: _on_link_opened,
        LinkLost: _on_link_lost,
        TimePassed: _on_time_passed,
        ManagerReplaced: _on_manager_replaced,
        SkipNamed: _on_skip_named,
        **dict.fromkeys(REQUEST_HANDLERS, _on_request),
    }
