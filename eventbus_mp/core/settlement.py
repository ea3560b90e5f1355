"""The end of a delivery, of an event and of a batch: settle, finish, release.

Events come as a batch and a mask of its bits. A delivery ends in `settle_waiting` if nobody holds it, and in
`settle_held` if an endpoint held it until now. The event ends with its last delivery, and the batch with its last
event and its last reader.
"""

from __future__ import annotations

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.masks import bits
from eventbus_mp.core.receipts import note_settled
from eventbus_mp.core.span_requests import recycle_if_free
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.core.watchers import describe
from eventbus_mp.protocol.effects import Reply
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import Outcome

__all__ = ["answer_drains", "settle_held", "settle_waiting", "unpin"]

COMPLETED = int(Outcome.COMPLETED)
SETTLED = HistoryKind.SETTLED


def settle_waiting(
    step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int, reason: str = ""
) -> None:
    """Settle deliveries that nobody holds: they wait in the queue, are delayed, or are in quarantine."""
    row = batch.route.row_of[subscriber.number]
    queued = batch.waiting[row] & mask
    if queued:
        batch.waiting[row] &= ~queued
        subscriber.queued -= queued.bit_count()
        if not batch.waiting[row]:
            subscriber.note_stale()
    delayed = mask & subscriber.delayed.get(batch, 0) if subscriber.delayed else 0
    if delayed:
        subscriber.undelay(batch, delayed)
        _forget_crashes(subscriber, batch, delayed)
    for index in bits(mask & ~(queued | delayed)):
        del subscriber.attempts[batch.first + index]
        subscriber.quarantine.remove((batch, 1 << index))
        step.state.dirty[subscriber] = None  # What waited behind it need not wait any longer.
    _settle(step, batch, mask, row, subscriber, outcome, reason)


def settle_held(
    step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int, reason: str = ""
) -> None:
    """Settle deliveries that an endpoint held until now."""
    if subscriber.attempts:
        _forget_crashes(subscriber, batch, mask)
    _settle(step, batch, mask, batch.route.row_of[subscriber.number], subscriber, outcome, reason)


def _forget_crashes(subscriber: SubscriberState, batch: EventBatch, mask: int) -> None:
    for index in bits(mask):
        subscriber.attempts.pop(batch.first + index, None)


def _settle(
    step: Step, batch: EventBatch, mask: int, row: int, subscriber: SubscriberState, outcome: int, reason: str
) -> None:
    if subscriber.backlog is not None:
        subscriber.backlog.remove(batch, mask)
        step.state.room_freed = True
    batch.unsettled[row] &= ~mask
    if subscriber.failed:
        subscriber.forget_failures(batch, mask)
    if outcome == COMPLETED:
        batch.completed[row] |= mask
        subscriber.completed += mask.bit_count()
    else:
        count = mask.bit_count()
        subscriber.skipped += count
        subscriber.reasons.count(count, reason)
    finished = mask & ~batch.any_unsettled()
    if finished:
        _finish(step, batch, finished)


def _finish(step: Step, batch: EventBatch, mask: int) -> None:
    """All deliveries of these events are settled: forget the events and answer those who wait for them."""
    state = step.state
    count = mask.bit_count()
    batch.live -= count
    state.event_log.append((step.now_ns, SETTLED, batch.first, mask, batch.topics, 0, None, None))
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
    if batch.tagged:
        note_settled(state, batch, mask)
    _release(step, batch)


def _count_off(state: BusState, topic: Topic, count: int) -> None:
    topic.unsettled -= count
    if not topic.unsettled:
        state.topic_emptied = True


def unpin(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState) -> None:
    """The holder of deliveries that others settled is done with them."""
    batch.pins -= mask.bit_count()
    if batch.is_dead_letter:
        _let_the_next_go(step, batch, subscriber)
    _release(step, batch)


def _let_the_next_go(step: Step, letter: EventBatch, subscriber: SubscriberState) -> None:
    """A process is done with a dead letter that was sent again meanwhile: if that has failed, its new letter may go."""
    for batch, bit in step.state.batches.find(letter.first):
        if batch is not letter and batch.is_dead_letter and subscriber.delayed.get(batch, 0) & bit:
            subscriber.undelay(batch, bit)
            subscriber.to_front(batch, bit)
            step.state.dirty[subscriber] = None


def _release(step: Step, batch: EventBatch) -> None:
    """Forget the batch, and count it off its span, once nobody has to settle or may be reading any of it."""
    if batch.live or batch.pins:
        return
    step.state.batches.remove(batch)
    if step.state.letters:
        step.state.letters.pop(batch, None)
    if len(batch.topics) == 1:
        topic = batch.topics[0]
        topic.nbytes -= batch.nbytes
        del topic.batches[batch]
    else:
        for topic, length in zip(batch.topics, batch.lengths(), strict=True):
            topic.nbytes -= length
            topic.batches.pop(batch, None)
    if not batch.is_dead_letter:  # else: its event has the same record.
        step.state.event_log.ended.add(batch.packed)
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
