"""The end of a delivery, of an event and of a batch: settle, finish, release.

Events come as a batch and a mask of its bits. A delivery ends in `settle_waiting` if nobody holds it, and in
`settle_held` if an endpoint held it until now. The event ends with its last delivery, and the batch with its last
event and its last reader.
"""

from __future__ import annotations

from eventbus_mp.core.entities import EventBatch, SubscriberState, Topic
from eventbus_mp.core.masks import bits
from eventbus_mp.core.span_requests import recycle_if_free
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.core.watchers import describe
from eventbus_mp.protocol.effects import Reply
from eventbus_mp.protocol.messages import Outcome

__all__ = ["answer_drains", "settle_held", "settle_waiting", "unpin"]

COMPLETED = Outcome.COMPLETED


def settle_waiting(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int) -> None:
    """Settle deliveries that nobody holds: they wait in the queue, or are in quarantine."""
    row = batch.route.row_of[subscriber.number]
    queued = batch.waiting[row] & mask
    if queued:
        batch.waiting[row] &= ~queued
        subscriber.queued -= queued.bit_count()
        if not batch.waiting[row]:
            subscriber.note_stale()
    for index in bits(mask & ~queued):
        del subscriber.attempts[batch.first + index]
        subscriber.quarantine.remove((batch, 1 << index))
        step.state.dirty[subscriber] = None  # What waited behind it need not wait any longer.
    _settle(step, batch, mask, row, subscriber, outcome)


def settle_held(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int) -> None:
    """Settle deliveries that an endpoint held until now."""
    if subscriber.attempts:
        for index in bits(mask):
            subscriber.attempts.pop(batch.first + index, None)
    _settle(step, batch, mask, batch.route.row_of[subscriber.number], subscriber, outcome)


def _settle(step: Step, batch: EventBatch, mask: int, row: int, subscriber: SubscriberState, outcome: int) -> None:
    batch.unsettled[row] &= ~mask
    if outcome == COMPLETED:
        batch.completed[row] |= mask
        subscriber.completed += mask.bit_count()
    else:
        subscriber.skipped += mask.bit_count()
    finished = mask & ~batch.any_unsettled()
    if finished:
        _finish(step, batch, finished)


def _finish(step: Step, batch: EventBatch, mask: int) -> None:
    """All deliveries of these events are settled: forget the events and answer those who wait for them."""
    state = step.state
    count = mask.bit_count()
    batch.live -= count
    if len(batch.topics) == 1:
        _count_off(state, batch.topics[0], count)
    else:
        for topic in batch.topics_of(mask):
            _count_off(state, topic, 1)
    if batch.deadlines:
        state.expiry.discard(batch, mask)
    for index in bits(mask & batch.awaited):
        link = state.awaited.pop(batch.first + index, None)
        if link is not None:
            step.effects.append(Reply(link, batch.first + index, describe(batch, 1 << index)))
    _release(step, batch)


def _count_off(state: BusState, topic: Topic, count: int) -> None:
    topic.unsettled -= count
    if not topic.unsettled:
        state.topic_emptied = True


def unpin(step: Step, batch: EventBatch, mask: int) -> None:
    """The holder of deliveries that others settled is done with them."""
    batch.pins -= mask.bit_count()
    _release(step, batch)


def _release(step: Step, batch: EventBatch) -> None:
    """Forget the batch, and count it off its span, once nobody has to settle or may be reading any of it."""
    if batch.live or batch.pins:
        return
    step.state.batches.remove(batch)
    batch.span.live -= 1
    recycle_if_free(step, batch.span)


def answer_drains(step: Step) -> None:
    """Answer those who wait for topics that have no unsettled event by now."""
    state = step.state
    state.topic_emptied = False
    waiting = []
    for waiter in state.drains:
        if any(topic.unsettled and waiter.pattern.match(topic.name) for topic in state.registry.topics.values()):
            waiting.append(waiter)
        else:
            step.effects.append(Reply(waiter.link, waiter.request, None))
    state.drains = waiting
