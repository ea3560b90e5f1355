"""What a process says of its deliveries: completed, skipped, failed, or returned unstarted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from eventbus_mp.core.batches import BatchTable
from eventbus_mp.core.entities import Endpoint, EventBatch
from eventbus_mp.core.hosting import after_release
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT
from eventbus_mp.core.redelivery import return_to_front
from eventbus_mp.core.settlement import settle_held, unpin
from eventbus_mp.core.skips import dead_letter, skip_all_waiting
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.messages import DeliveriesSettled, Outcome

__all__ = ["on_settled"]

RETURNED, FAILED = Outcome.RETURNED, Outcome.FAILED
_OUTCOME_NAMES = {outcome.value: outcome.name.lower() for outcome in Outcome}


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
    if outcome == RETURNED:
        _return(step, link, endpoint, taken)
        return
    subscriber, settled = endpoint.subscriber, 0
    what = f"{_OUTCOME_NAMES[outcome]} by {subscriber.name}"
    for batch, mask in taken:
        late = mask & ~batch.unsettled[batch.route.row_of[subscriber.number]]
        if late:
            # Another process marked these in the meantime: they only pinned the memory.
            unpin(step, batch, late)
            mask &= ~late
        if mask:
            settled += mask.bit_count()
            state.event_log.record(step.now_ns, what, batch.first, mask)
            if outcome == FAILED:
                dead_letter(step, batch, mask)
            settle_held(step, batch, mask, subscriber, outcome)
    if settled:
        endpoint.update_credit(settled, step.now_ns, message.cost_ns)
    after_release(state, link, subscriber)


def _take_from(
    endpoint: Endpoint, table: BatchTable, first: int, last: int, taken: list[tuple[EventBatch, int]]
) -> None:
    """Take the sequence numbers from `first` to `last` out of what the endpoint has in flight.

    A range may be long and span many buckets, of which the endpoint has few batches; so the shorter way is taken.
    """
    in_flight = endpoint.in_flight
    bucket, last_bucket = first >> SEQUENCE_BUCKET_SHIFT, last >> SEQUENCE_BUCKET_SHIFT
    batches: Iterable[EventBatch]
    if bucket == last_bucket:
        batches = table.in_bucket(bucket)
    elif last_bucket - bucket >= len(in_flight):
        batches = list(in_flight)
    else:
        batches = chain.from_iterable(map(table.in_bucket, range(bucket, last_bucket + 1)))
    for batch in batches:
        if batch in in_flight:
            mask = endpoint.release_in_flight(batch, batch.between(first, last))
            if mask:
                taken.append((batch, mask))


def _return(step: Step, link: LinkState, endpoint: Endpoint, taken: list[tuple[EventBatch, int]]) -> None:
    """Deliveries that were handed back unstarted go to the front again."""
    subscriber = endpoint.subscriber
    # In the order in which they were notified, however they come back.
    merged: dict[EventBatch, int] = {}
    for batch, mask in sorted(taken, key=lambda item: item[0].first):
        merged[batch] = merged.get(batch, 0) | mask
    return_to_front(step, subscriber, list(merged.items()))
    if not step.state.registry.is_subscribed(subscriber):
        skip_all_waiting(step, subscriber, "it was unsubscribed")
    after_release(step.state, link, subscriber)
