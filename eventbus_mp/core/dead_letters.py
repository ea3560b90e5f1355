"""Dead letters: events that failed, once more for the subscribers of the dead letter topic; and from there, once more
for the subscriber that failed."""

from __future__ import annotations

from eventbus_mp.core.bounds import shed
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Route
from eventbus_mp.core.ingest import append_batch
from eventbus_mp.core.lifecycle import announce
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits
from eventbus_mp.core.state import Letter, Step
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.records import without_deadline

__all__ = ["dead_letter", "send_again"]


def dead_letter(step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, reason: str) -> None:
    """Deliver the same payloads to the dead letter topic's subscribers; nothing is copied.

    A subscriber that gets an event itself does not get it again as a dead letter. To be called before the delivery is
    settled, for what is known of it goes with it.
    """
    state = step.state
    topic = state.registry.topics.get(state.config.dead_letter_topic or "")
    if topic is None or batch.is_dead_letter:
        return
    before = state.letters.get(batch)  # This one was sent again because of a dead letter.
    receivers = frozenset(batch.route.row_of) | (before.receivers if before is not None else frozenset())
    # That of an event of another host is a matter of this one, so also of a subscriber whose scope is "local".
    is_imported = batch.is_imported
    others = (item for item in topic.route.subscribers if item.number not in receivers)
    route = Route(tuple(item for item in others if not (is_imported and item.host)), is_imported=is_imported)
    if not route.subscribers:
        return
    for index in bits(mask & ~batch.dead_lettered):
        own = batch.topic_of(index)
        if own is not topic:
            step.log(HistoryKind.DEAD_LETTERED, batch, 1 << index, detail=topic.name)
            batch.dead_lettered |= 1 << index
            sequence = batch.first + index
            attempts = subscriber.attempt_of(sequence) - 1
            failure = subscriber.failures.get(sequence)
            if before is not None:
                attempts += before.attempts
                if failure is not None and before.failure is not None:
                    failure.first_ns = before.failure.first_ns
            letter = EventBatch(sequence, route, batch.span, step.now_ns, is_dead_letter=True)
            append_batch(step, letter, batch.cut(1 << index), [topic], 1)
            if own.name != state.config.lifecycle_topic:
                facts = {"reason": reason, "attempts": attempts, "dead_letter_topic": topic.name}
                announce(step, "dead_lettered", topic=own.name, subscriber=subscriber.shown, **facts)
            if before is not None:
                _hold_back(step, letter)
            state.letter_serial += 1
            state.letters[letter] = Letter(
                state.letter_serial, own, *subscriber.key, reason, attempts, failure, receivers
            )
            shed(step, letter, 1)


def _hold_back(step: Step, letter: EventBatch) -> None:
    """Keep it from subscribers of which a process still holds the dead letter before, which was sent again meanwhile.

    A process knows an event by its number alone: what it says of the one would settle both. `unpin` lets it go.
    """
    same_bucket = step.state.batches.in_bucket(letter.first >> SEQUENCE_BUCKET_SHIFT)
    earlier = [batch for batch in same_bucket if batch.is_dead_letter and batch.first == letter.first]
    for row, subscriber in enumerate(letter.route.subscribers):
        if any(batch in endpoint.in_flight for endpoint in subscriber.endpoints for batch in earlier):
            letter.waiting[row] = 0
            subscriber.queued -= 1
            subscriber.note_stale()
            subscriber.delay(letter, 1)


def send_again(step: Step, letter: EventBatch) -> EventBatch | None:
    """Deliver the event of a dead letter again to the subscriber that failed, and to nobody else: the new batch.

    It does not expire any more. None: the subscriber or the topic is gone. The dead letter itself is as it was.
    """
    state = step.state
    found = state.letters[letter]
    subscriber = state.registry.subscribers.get((found.name, found.config, found.host))
    if subscriber is None or found.topic.is_gone:
        return None
    route = Route((subscriber,), is_imported=letter.is_imported)
    batch = EventBatch(letter.first, route, letter.span, step.now_ns)
    append_batch(step, batch, without_deadline(letter.packed), [found.topic], 1)
    batch.nbytes = sum(batch.lengths())
    found.topic.nbytes += batch.nbytes
    state.letters[batch] = found
    step.log(HistoryKind.REDELIVERED, batch, 1, subscriber)
    return batch
