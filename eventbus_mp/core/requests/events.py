"""Requests about one event: settle it from outside, say why it was skipped, keep its memory."""

from __future__ import annotations

from eventbus_mp.core.entities import EventBatch, SubscriberState
from eventbus_mp.core.hosting import after_release, holder_of
from eventbus_mp.core.leases import lease
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.settlement import settle_held, settle_waiting
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.errors import NotSubscribed, ProtocolError
from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.messages import Outcome

__all__ = ["explain_skip", "find_event", "lease_event", "mark_event"]


def find_event(state: BusState, topic_number: int, sequence: int) -> list[tuple[EventBatch, int]]:
    """(batch, bit) of the event and of its dead letter, where they are unsettled and their topics still exist."""
    found = []
    for batch, bit in state.batches.find(sequence):
        topic = batch.topic_of(bit.bit_length() - 1)
        if not topic.is_gone and (batch.is_dead_letter or topic.number == topic_number):
            found.append((batch, bit))
    return found


def mark_event(step: Step, link: LinkState, message: requests.MarkEvent) -> None:
    state = step.state
    subscriber = state.registry.subscribers.get((message.name, message.config))
    if message.outcome not in (Outcome.COMPLETED, Outcome.SKIPPED):
        raise ProtocolError(f"it marked an event with outcome {message.outcome}")
    if subscriber is None:
        raise NotSubscribed(f"{message.name} is not subscribed to anything; subscribe it before it marks events")
    found = find_event(state, message.topic, message.sequence)
    ours = next(((batch, bit) for batch, bit in found if subscriber.number in batch.route.row_of), None)
    if ours is None:
        _check_wants(state, subscriber, message.topic)
        if found:
            batch, bit = found[0]
            topic = batch.topic_of(bit.bit_length() - 1).name
            raise NotSubscribed(f"{message.name} was not subscribed to {topic!r} when the event was notified")
        return  # Settled already: a late mark changes nothing.
    batch, bit = ours
    if batch.unsettled[batch.route.row_of[subscriber.number]] & bit:
        _mark(step, link, batch, bit, subscriber, message.outcome)
        state.event_log.record(step.now_ns, f"marked for {subscriber.name} by process {link.pid}", batch.first, bit)


def _check_wants(state: BusState, subscriber: SubscriberState, topic_number: int) -> None:
    """Refuse to mark an event that the subscriber cannot have got; it is settled, so only its topic is known."""
    topic = state.registry.topic_by_number.get(topic_number)
    dead_letter_topic = state.config.dead_letter_topic
    if topic is None or subscriber.wants(topic.name) or (dead_letter_topic and subscriber.wants(dead_letter_topic)):
        return
    raise NotSubscribed(f"{subscriber.name} is not subscribed to {topic.name!r}: its patterns {subscriber.patterns}")


def _mark(step: Step, link: LinkState, batch: EventBatch, bit: int, subscriber: SubscriberState, outcome: int) -> None:
    holder = holder_of(step.state, batch, bit, subscriber)
    if holder is None:
        settle_waiting(step, batch, bit, subscriber, outcome)
        return
    if holder.link == link.number:
        holder.release_in_flight(batch, bit)
    else:
        # The holder may be reading: the event stays in flight there, and pins the span until the holder settles it as
        # well.
        batch.pins += 1
    settle_held(step, batch, bit, subscriber, outcome)
    after_release(step.state, step.state.links[holder.link], subscriber)


def explain_skip(step: Step, link: LinkState, message: requests.ExplainSkip) -> None:
    subscriber = step.state.registry.subscriber_by_number.get(message.subscriber)
    if subscriber is not None:
        skip = (message.event_id[:REASON_LENGTH_MAX], message.reason[:REASON_LENGTH_MAX])
        # A process may crash after it gave the reason, and the next one that skips the event gives it again.
        if skip not in subscriber.recent_skips:
            subscriber.recent_skips.append(skip)


def lease_event(step: Step, link: LinkState, message: requests.LeaseEvent) -> bool:
    found = find_event(step.state, message.topic, message.sequence)
    if not found:
        return False
    batch, bit = found[0]
    end = message.offset + message.length
    if not batch.span.start <= message.offset < end <= batch.span.end:
        raise ProtocolError(f"it leased event {message.sequence:#x} at {message.offset}, where that is not")
    topic = batch.topic_of(bit.bit_length() - 1).name
    lease(step, link, message.sequence, batch.span, topic, message.offset, message.length)
    return True
