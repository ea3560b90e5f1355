"""Requests about single events: settle them from outside, keep the memory of one; and reasons for skips."""

from __future__ import annotations

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.hosting import after_release, holder_of
from eventbus_mp.core.leases import lease
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.settlement import settle_held, settle_waiting
from eventbus_mp.core.skips import name_skips
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.errors import NotSubscribed, ProtocolError
from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.protocol.reasons import NAMED_FIRST, NAMED_MAX

_MARKED = {int(Outcome.COMPLETED): HistoryKind.MARKED_COMPLETED, int(Outcome.SKIPPED): HistoryKind.MARKED_SKIPPED}


def find_event(state: BusState, topic_number: int, sequence: int) -> list[tuple[EventBatch, int]]:
    """(batch, bit) of the event and of its dead letter, where they are unsettled and their topics still exist."""
    found = []
    for batch, bit in state.batches.find(sequence):
        topic = batch.topic_of(bit.bit_length() - 1)
        if not topic.is_gone and (batch.is_dead_letter or topic.number == topic_number):
            found.append((batch, bit))
    return found


@handles(requests.MarkEvents)
def mark_events(step: Step, link: LinkState, message: requests.MarkEvents) -> None:
    subscriber = step.state.registry.subscribers.get((message.name, message.config, message.host))
    if message.outcome not in (Outcome.COMPLETED, Outcome.SKIPPED) or len(message.events) % 2:
        raise ProtocolError(f"it marked {len(message.events)} numbers with outcome {message.outcome}")
    if subscriber is None:
        raise NotSubscribed(f"{message.name} is not subscribed to anything; subscribe it before it marks events")
    mistake = None
    for topic, sequence in zip(message.events[::2], message.events[1::2], strict=True):
        try:
            _mark(step, link, message, subscriber, topic, sequence)
        except NotSubscribed as error:
            mistake = mistake or error
    if mistake is not None:
        raise mistake


def _mark(
    step: Step, link: LinkState, message: requests.MarkEvents, subscriber: SubscriberState, topic: int, sequence: int
) -> None:
    state = step.state
    found = find_event(state, topic, sequence)
    ours = _unsettled_first(found, subscriber)
    if ours is None:
        _check_wants(state, subscriber, topic)
        if found and not any(_had_it(state, batch, bit, subscriber) for batch, bit in found):
            batch, bit = found[0]
            name = batch.topic_of(bit.bit_length() - 1).name
            raise NotSubscribed(f"{subscriber.shown} was not subscribed to {name!r} when the event was notified")
        return  # Settled already: a late mark changes nothing.
    batch, bit = ours
    if batch.unsettled[batch.route.row_of[subscriber.number]] & bit:
        reason = message.reason[:REASON_LENGTH_MAX]
        if reason and message.outcome == Outcome.SKIPPED:
            name_skips(step, batch, bit, subscriber, reason)
        step.log(_MARKED[message.outcome], batch, bit, subscriber, reason or None, link.pid)
        settle_wherever(step, batch, bit, subscriber, message.outcome, reason)


def _unsettled_first(found: list[tuple[EventBatch, int]], subscriber: SubscriberState) -> tuple[EventBatch, int] | None:
    """The one that is this subscriber's. There are two of an event that was sent again from the dead letters."""
    ours = [(batch, bit) for batch, bit in found if subscriber.number in batch.route.row_of]
    unsettled = [(batch, bit) for batch, bit in ours if batch.unsettled[batch.route.row_of[subscriber.number]] & bit]
    return next(iter(unsettled or ours), None)


def _had_it(state: BusState, batch: EventBatch, bit: int, subscriber: SubscriberState) -> bool:
    """Whether the subscriber may have got and settled this event in another batch: as a dead letter, or before it was
    one. A letter that is settled is forgotten, so all that is known then is that there was one."""
    letter = state.letters.get(batch)
    if letter is not None and subscriber.number in letter.receivers:
        return True
    topic = state.config.dead_letter_topic
    return bool((letter is not None or batch.dead_lettered & bit) and topic and subscriber.wants(topic))


def _check_wants(state: BusState, subscriber: SubscriberState, topic_number: int) -> None:
    """Refuse to mark an event that the subscriber cannot have got; it is settled, so only its topic is known."""
    topic = state.registry.topic_by_number.get(topic_number)
    dead_letter_topic = state.config.dead_letter_topic
    if topic is None or subscriber.wants(topic.name) or (dead_letter_topic and subscriber.wants(dead_letter_topic)):
        return
    raise NotSubscribed(f"{subscriber.shown} is not subscribed to {topic.name!r}: its patterns {subscriber.patterns}")


def settle_wherever(
    step: Step, batch: EventBatch, bit: int, subscriber: SubscriberState, outcome: int, reason: str = ""
) -> None:
    """Settle a delivery that is unsettled, whether it waits or a process holds it."""
    holder = holder_of(step.state, batch, bit, subscriber)
    if holder is None:
        settle_waiting(step, batch, bit, subscriber, outcome, reason)
        return
    # The holder may be reading: the event stays in flight there, and pins the span until the holder settles it as well.
    # A process that marks what it holds itself has not come to it.
    batch.pins += 1
    settle_held(step, batch, bit, subscriber, outcome, reason)
    after_release(step.state, step.state.links[holder.link], subscriber)


@handles(requests.NameReason)
def name_reason(step: Step, link: LinkState, message: requests.NameReason) -> None:
    if not NAMED_FIRST <= message.number < NAMED_FIRST + NAMED_MAX:
        raise ProtocolError(f"it gave a reason the number {message.number}")
    link.reasons[message.number] = message.text[:REASON_LENGTH_MAX]


@handles(requests.LeaseEvent)
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
