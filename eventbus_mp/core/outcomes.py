"""What a process says of its deliveries: taken, completed, skipped, failed, returned unstarted, to be tried again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from eventbus_mp.core.batches import BatchTable
from eventbus_mp.core.dead_letters import dead_letter
from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.hosting import after_release
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits
from eventbus_mp.core.redelivery import come_again, return_to_front
from eventbus_mp.core.settlement import settle_held, unpin
from eventbus_mp.core.skips import name_skips, skip_all_waiting
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import DeliveriesSettled, DeliveriesTaken, Outcome
from eventbus_mp.protocol.reasons import text_of

__all__ = ["on_settled", "on_taken"]

COMPLETED, RETURNED, FAILED, RETRIED = map(int, (Outcome.COMPLETED, Outcome.RETURNED, Outcome.FAILED, Outcome.RETRIED))
COMING_BACK = (RETURNED, RETRIED)
_KINDS = {int(outcome): HistoryKind[outcome.name] for outcome in Outcome}


def on_settled(step: Step, message: DeliveriesSettled) -> None:
    """Settle what the process holds of these ranges. The rest was settled before, and changes nothing."""
    state = step.state
    link = state.link(message.link)
    endpoint = link.endpoints.get(message.subscriber)
    if endpoint is None:
        return  # A repeated message, of a subscriber that this process no longer hosts.
    taken: list[tuple[EventBatch, int]] = []
    for first, count in message.ranges:
        _take_from(endpoint, state.batches, first, first + count - 1, taken)
    outcome = message.outcome
    if outcome in COMING_BACK:
        _come_back(step, link, endpoint, taken, message)
        return
    subscriber, settled = endpoint.subscriber, 0
    reason = text_of(message.reason, link.reasons) if message.reason else ""
    log, now_ns, kind, key = state.event_log.append, step.now_ns, _KINDS[outcome], subscriber.key
    for batch, mask in taken:
        late = mask & ~batch.unsettled[batch.route.row_of[subscriber.number]]
        if late:
            # Another process marked these in the meantime: they only pinned the memory.
            unpin(step, batch, late, subscriber)
            mask &= ~late
        if mask:
            settled += mask.bit_count()
            log((now_ns, kind, batch.first, mask, batch.topics, link.pid, key, reason or None))
            if outcome != COMPLETED:
                if reason:
                    name_skips(step, batch, mask, subscriber, reason)
                if outcome == FAILED:
                    _fail(step, batch, mask, subscriber, reason)
            settle_held(step, batch, mask, subscriber, outcome, reason)
    if endpoint.is_recalled:
        endpoint.hear()
    if settled:
        endpoint.update_credit(settled, step.now_ns, message.cost_ns)
        if message.cost_ns:
            subscriber.handling[message.cost_ns.bit_length()] += settled
    after_release(state, link, subscriber)


def on_taken(step: Step, message: DeliveriesTaken) -> None:
    """Note what the process has taken, of what it holds: it may be sent as many more."""
    endpoint = step.state.link(message.link).endpoints.get(message.subscriber)
    if endpoint is None:
        return  # As in `on_settled`.
    for first, count in message.ranges:
        for batch in _batches_of(endpoint, step.state.batches, first, first + count - 1):
            endpoint.add_taken(batch, batch.between(first, first + count - 1))
    endpoint.hear()
    if step.state.registry.is_subscribed(endpoint.subscriber):
        step.state.dirty[endpoint.subscriber] = None


def _take_from(
    endpoint: Endpoint, table: BatchTable, first: int, last: int, taken: list[tuple[EventBatch, int]]
) -> None:
    """Take the sequence numbers from `first` to `last` out of what the endpoint has in flight."""
    in_flight = endpoint.in_flight
    bucket = first >> SEQUENCE_BUCKET_SHIFT
    is_short = bucket == last >> SEQUENCE_BUCKET_SHIFT  # The common case, without a call.
    for batch in table.in_bucket(bucket) if is_short else _batches_of(endpoint, table, first, last):
        # Most batches of a bucket have nothing in this range; two comparisons are cheaper than two calls.
        if batch.first <= last and first < batch.first + batch.count and batch in in_flight:
            mask = endpoint.release_in_flight(batch, batch.between(first, last))
            if mask:
                taken.append((batch, mask))


def _batches_of(endpoint: Endpoint, table: BatchTable, first: int, last: int) -> Iterable[EventBatch]:
    """All batches of which the endpoint may have something from `first` to `last`, and others.

    A range may be long and span many buckets, of which the endpoint has few batches; so the shorter way is taken.
    """
    bucket, last_bucket = first >> SEQUENCE_BUCKET_SHIFT, last >> SEQUENCE_BUCKET_SHIFT
    if bucket == last_bucket:
        return table.in_bucket(bucket)
    if last_bucket - bucket >= len(endpoint.in_flight):
        return list(endpoint.in_flight)
    return chain.from_iterable(map(table.in_bucket, range(bucket, last_bucket + 1)))


def _fail(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str) -> None:
    for index in bits(mask):
        subscriber.failure(batch, index, step.now_ns).count(step.now_ns)
    dead_letter(step, batch, mask, subscriber, reason)


def _come_back(
    step: Step, link: LinkState, endpoint: Endpoint, taken: list[tuple[EventBatch, int]], message: DeliveriesSettled
) -> None:
    """Deliveries that were handed back, unstarted or to be tried again, go to the front now or later."""
    subscriber = endpoint.subscriber
    # In the order in which they were notified, however they come back.
    merged: dict[EventBatch, int] = {}
    for batch, mask in sorted(taken, key=lambda item: item[0].first):
        merged[batch] = merged.get(batch, 0) | mask
    failed = message.outcome == RETRIED
    if failed or message.delay_ns:
        endpoint.hear()
        come_again(step, endpoint, list(merged.items()), message.delay_ns, failed=failed)
    else:
        endpoint.owes_return = False
        return_to_front(step, endpoint, list(merged.items()))
    if not step.state.registry.is_subscribed(subscriber):
        skip_all_waiting(step, subscriber, "it was unsubscribed")
    after_release(step.state, link, subscriber)
