"""Deliveries that the bus itself skips: given up, expired, or for a subscriber or a topic that is gone."""

from __future__ import annotations

from eventbus_mp.core.dead_letters import dead_letter
from eventbus_mp.core.entities import RECENT_SKIPS_MAX, SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.masks import bits
from eventbus_mp.core.settlement import settle_held, settle_waiting
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.effects import NameSkip, Warn
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import Outcome, SkipNamed
from eventbus_mp.protocol.reasons import EXPIRED

__all__ = [
    "drop_topic",
    "expire",
    "give_up",
    "name_skips",
    "on_skip_named",
    "skip_all_waiting",
    "skip_held",
    "skip_waiting",
]


def give_up(step: Step, batch: EventBatch, bit: int, subscriber: SubscriberState, reason: str) -> None:
    """Skip a delivery that nobody holds, for a reason of the bus; the dead letter topic gets the event."""
    name_skips(step, batch, bit, subscriber, reason, is_given_up=True)
    step.log(HistoryKind.GIVEN_UP, batch, bit, subscriber, reason)
    dead_letter(step, batch, bit, subscriber, reason)
    settle_waiting(step, batch, bit, subscriber, Outcome.SKIPPED, reason)


def skip_held(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str) -> None:
    """Skip deliveries that have left their endpoint and go to nobody else."""
    name_skips(step, batch, mask, subscriber, reason)
    step.log(HistoryKind.SKIPPED, batch, mask, subscriber, reason)
    settle_held(step, batch, mask, subscriber, Outcome.SKIPPED, reason)


def skip_waiting(step: Step, batch: EventBatch, mask: int, reason: str, *, is_named: bool = False) -> None:
    """Skip these events for the subscribers for which they wait; where they are in flight, they stay.

    Args:
        reason: Why; the skips are counted by it.
        is_named: Have them appear in the statistics by the ids of the events.
    """
    for row, subscriber in enumerate(batch.route.subscribers):
        waits = mask & (batch.waiting[row] | subscriber.delayed.get(batch, 0))
        for index in bits(mask & batch.unsettled[row] & ~waits) if subscriber.quarantine else ():
            waits |= (1 << index) * ((batch, 1 << index) in subscriber.quarantine)
        if waits:
            if is_named:
                name_skips(step, batch, waits, subscriber, reason)
            step.log(HistoryKind.SKIPPED, batch, waits, subscriber, reason)
            settle_waiting(step, batch, waits, subscriber, Outcome.SKIPPED, reason)


def skip_all_waiting(step: Step, subscriber: SubscriberState, reason: str) -> None:
    """Skip everything that waits for a subscriber that is gone."""
    number = subscriber.number
    waiting = [(batch, batch.waiting[batch.route.row_of[number]]) for batch in dict.fromkeys(subscriber.queue)]
    waiting = [
        *subscriber.quarantine,
        *((batch, mask) for batch, mask in waiting if mask),
        *subscriber.delayed.items(),
    ]
    if not waiting:
        return
    count = subscriber.waiting_count
    step.effects.append(Warn(f"{subscriber.shown}: skipped {count} events that waited for it: {reason}"))
    subscriber.recent_skips.append((f"{count} events", reason))
    for batch, mask in waiting:
        step.log(HistoryKind.SKIPPED, batch, mask, subscriber, reason)
        if not subscriber.broadcast:  # It was one process's, and never comes back for its dead letters.
            dead_letter(step, batch, mask, subscriber, reason)
        settle_waiting(step, batch, mask, subscriber, Outcome.SKIPPED, reason)


def expire(step: Step) -> None:
    """Skip the events whose ttl is over, for the subscribers for which they wait.

    A delivery in flight does not expire: its process may be reading, and looks at the deadline itself.
    """
    due = step.state.expiry.due(step.now_ns)
    left = sum(mask.bit_count() for _, mask in due)
    for batch, mask in due:
        left -= mask.bit_count()
        batch.expired |= mask
        step.log(HistoryKind.EXPIRED, batch, mask)
        # Only the latest are named: no more are remembered, and each costs a look into its payload.
        skip_waiting(step, batch, mask, EXPIRED, is_named=left < RECENT_SKIPS_MAX)


def drop_topic(step: Step, topic: Topic) -> None:
    """Skip what waits of a topic that was unregistered; what a process holds is released when it settles."""
    step.state.topic_emptied = True
    for batch in list(step.state.batches):
        mask = batch.of_topic(topic)
        if mask:
            skip_waiting(step, batch, mask, "its topic was unregistered")


def on_skip_named(step: Step, message: SkipNamed) -> None:
    """The id of an event that the bus skipped is known now: remember it with the reason."""
    subscriber = step.state.registry.subscriber_by_number.get(message.subscriber)
    if subscriber is not None:  # else: the skip was its last delivery, and it is forgotten
        subscriber.recent_skips.append((message.event_id, message.reason))


def name_skips(
    step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str, *, is_given_up: bool = False
) -> None:
    """Have the newest of these skips appear in the statistics. To be called before they settle: then the memory may
    go."""
    for index in list(bits(mask))[-RECENT_SKIPS_MAX:]:
        topic, packed_record = batch.topic_of(index).name, batch.cut(1 << index)
        step.effects.append(NameSkip(subscriber.number, subscriber.shown, topic, packed_record, reason, is_given_up))
