"""Deliveries that the bus itself skips: given up, expired, or for a subscriber or a topic that is gone. And dead
letters."""

from __future__ import annotations

from eventbus_mp.core.entities import RECENT_SKIPS_MAX, EventBatch, Route, SubscriberState, Topic
from eventbus_mp.core.ingest import append_batch
from eventbus_mp.core.masks import bits
from eventbus_mp.core.settlement import settle_held, settle_waiting
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.effects import NameSkip, Warn
from eventbus_mp.protocol.messages import Outcome, SkipNamed

__all__ = [
    "dead_letter",
    "drop_topic",
    "expire",
    "give_up",
    "on_skip_named",
    "skip_all_waiting",
    "skip_held",
    "skip_waiting",
]


def give_up(step: Step, batch: EventBatch, bit: int, subscriber: SubscriberState, reason: str) -> None:
    """Skip a delivery that nobody holds, for a reason of the bus; the dead letter topic gets the event."""
    _name_skips(step, batch, bit, subscriber, reason, is_given_up=True)
    step.state.event_log.record(step.now_ns, f"given up for {subscriber.name}: {reason}", batch.first, bit)
    dead_letter(step, batch, bit)
    settle_waiting(step, batch, bit, subscriber, Outcome.SKIPPED)


def skip_held(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str) -> None:
    """Skip deliveries that have left their endpoint and go to nobody else."""
    _name_skips(step, batch, mask, subscriber, reason)
    step.state.event_log.record(step.now_ns, f"skipped for {subscriber.name}: {reason}", batch.first, mask)
    settle_held(step, batch, mask, subscriber, Outcome.SKIPPED)


def skip_waiting(step: Step, batch: EventBatch, mask: int, named_for: str = "") -> None:
    """Skip these events for the subscribers for which they wait; where they are in flight, they stay.

    Args:
        named_for: The reason; without one, the skips do not appear in the statistics by name.
    """
    for row, subscriber in enumerate(batch.route.subscribers):
        waits = mask & batch.waiting[row]
        for index in bits(mask & batch.unsettled[row] & ~waits) if subscriber.quarantine else ():
            waits |= (1 << index) * ((batch, 1 << index) in subscriber.quarantine)
        if waits and named_for:
            _name_skips(step, batch, waits, subscriber, named_for)
        if waits:
            settle_waiting(step, batch, waits, subscriber, Outcome.SKIPPED)


def skip_all_waiting(step: Step, subscriber: SubscriberState, reason: str) -> None:
    """Skip everything that waits for a subscriber that is gone."""
    state, number = step.state, subscriber.number
    waiting = [(batch, batch.waiting[batch.route.row_of[number]]) for batch in dict.fromkeys(subscriber.queue)]
    waiting = [*subscriber.quarantine, *((batch, mask) for batch, mask in waiting if mask)]
    if not waiting:
        return
    count = subscriber.queued + len(subscriber.quarantine)
    step.effects.append(Warn(f"{subscriber.name}: skipped {count} events that waited for it: {reason}"))
    subscriber.recent_skips.append((f"{count} events", reason))
    for batch, mask in waiting:
        state.event_log.record(step.now_ns, f"skipped for {subscriber.name}: {reason}", batch.first, mask)
        dead_letter(step, batch, mask)
        settle_waiting(step, batch, mask, subscriber, Outcome.SKIPPED)


def expire(step: Step) -> None:
    """Skip the events whose ttl is over, for the subscribers for which they wait.

    A delivery in flight does not expire: its process may be reading, and looks at the deadline itself.
    """
    due = step.state.expiry.due(step.now_ns)
    left = sum(mask.bit_count() for _, mask in due)
    for batch, mask in due:
        left -= mask.bit_count()
        batch.expired |= mask
        step.state.event_log.record(step.now_ns, "expired", batch.first, mask)
        # Only the latest are named: no more are remembered, and each costs a look into its payload.
        skip_waiting(step, batch, mask, "expired" if left < RECENT_SKIPS_MAX else "")


def drop_topic(step: Step, topic: Topic) -> None:
    """Skip what waits of a topic that was unregistered; what a process holds is released when it settles."""
    step.state.topic_emptied = True
    for batch in list(step.state.batches):
        mask = batch.of_topic(topic)
        if mask:
            skip_waiting(step, batch, mask)


def dead_letter(step: Step, batch: EventBatch, mask: int) -> None:
    """Deliver the same payloads to the dead letter topic's subscribers; nothing is copied.

    A subscriber that gets an event itself does not get it again as a dead letter.
    """
    registry = step.state.registry
    topic = registry.topics.get(step.state.config.dead_letter_topic or "")
    if topic is None or batch.is_dead_letter:
        return
    receivers = batch.route.row_of
    route = Route(tuple(item for item in topic.route.subscribers if item.number not in receivers))
    if not route.subscribers:
        return
    for index in bits(mask & ~batch.dead_lettered):
        if batch.topic_of(index) is not topic:
            batch.dead_lettered |= 1 << index
            letter = EventBatch(batch.first + index, route, batch.span, is_dead_letter=True)
            append_batch(step, letter, batch.cut(1 << index), [topic], 1)


def on_skip_named(step: Step, message: SkipNamed) -> None:
    """The id of an event that the bus skipped is known now: remember it with the reason."""
    subscriber = step.state.registry.subscriber_by_number.get(message.subscriber)
    if subscriber is not None:  # else: the skip was its last delivery, and it is forgotten
        subscriber.recent_skips.append((message.event_id, message.reason))


def _name_skips(
    step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str, *, is_given_up: bool = False
) -> None:
    """Have the newest of these skips appear in the statistics. To be called before they settle: then the memory may
    go."""
    for index in list(bits(mask))[-RECENT_SKIPS_MAX:]:
        topic, packed_record = batch.topic_of(index).name, batch.cut(1 << index)
        step.effects.append(NameSkip(subscriber.number, subscriber.name, topic, packed_record, reason, is_given_up))
