"""Deliveries that come back: from a process that crashed, left, gave them back, or wants them tried again."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.failures import PROCESS_CRASHED
from eventbus_mp.core.links import Blame
from eventbus_mp.core.masks import bits
from eventbus_mp.core.settlement import unpin
from eventbus_mp.core.skips import give_up, skip_held
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.reasons import EXPIRED

__all__ = ["come_again", "reclaim", "retry_due", "return_to_front"]

CRASHED, RETURNED, RETRIED = HistoryKind.CRASHED, HistoryKind.RETURNED, HistoryKind.RETRIED


def reclaim(step: Step, endpoint: Endpoint, *, crashed: bool, blames: Collection[Blame] = ()) -> None:
    """The endpoint is gone: what it held goes back to the front, the oldest first.

    If its process crashed, any of it may be the reason; unless it was killed for something: then `blames` say for what.
    """
    subscriber = endpoint.subscriber
    accused = in_flight = endpoint.release_all_in_flight()
    ours = [blame for blame in blames if blame.subscriber == subscriber.number]
    if not crashed:
        accused = []
    elif blames:
        accused = _accused(in_flight, ours)
    if accused:
        returned = _still_wanted(step, subscriber, accused)
        reason = ours[0].reason if ours else None  # A handler has one limit, so all of its own say the same.
        _record_returned(step, endpoint, CRASHED, returned, reason)
        _quarantine_crashed(step, subscriber, returned, reason)
    return_to_front(step, endpoint, _without(in_flight, accused))


def _accused(events: list[tuple[EventBatch, int]], blames: Iterable[Blame]) -> list[tuple[EventBatch, int]]:
    """Those of a subscriber's `events` that the process was killed for."""
    sequences = {blame.sequence for blame in blames}
    if 0 in sequences:
        return events
    found = []
    for batch, mask in events:
        guilty = 0
        for sequence in sequences:
            guilty |= mask & batch.between(sequence, sequence)
        if guilty:
            found.append((batch, guilty))
    return found


def _without(
    events: list[tuple[EventBatch, int]], others: list[tuple[EventBatch, int]]
) -> list[tuple[EventBatch, int]]:
    gone = dict(others)
    left = [(batch, mask & ~gone.get(batch, 0)) for batch, mask in events]
    return [(batch, mask) for batch, mask in left if mask]


def return_to_front(step: Step, endpoint: Endpoint, events: list[tuple[EventBatch, int]]) -> None:
    """Queue what an endpoint held again, without counting an attempt; what was in quarantine goes there again."""
    subscriber = endpoint.subscriber
    returned = _still_wanted(step, subscriber, events)
    _to_front(subscriber, returned)
    _record_returned(step, endpoint, RETURNED, returned)


def come_again(
    step: Step, endpoint: Endpoint, events: list[tuple[EventBatch, int]], delay_ns: int, *, failed: bool
) -> None:
    """Queue what an endpoint held again, now or after a delay. Only if it failed is an attempt counted."""
    subscriber = endpoint.subscriber
    returned = _still_wanted(step, subscriber, events)
    for batch, mask in returned:
        for index in bits(mask):
            failure = subscriber.failure(batch, index, step.now_ns)
            if failed:
                failure.count(step.now_ns)
            else:
                failure.tries = 0
    _queue_again(step, subscriber, returned, delay_ns)
    _record_returned(step, endpoint, RETRIED if failed else RETURNED, returned)


def _queue_again(
    step: Step, subscriber: SubscriberState, returned: list[tuple[EventBatch, int]], delay_ns: int
) -> None:
    if not delay_ns:
        _to_front(subscriber, returned)
        return
    for batch, mask in returned:
        subscriber.delay(batch, mask)
        step.state.delays.add(step.now_ns + delay_ns, subscriber, batch, mask)


def retry_due(step: Step) -> None:
    """Deliveries whose delay is over go to the front."""
    for subscriber, batch, mask in reversed(step.state.delays.due(step.now_ns)):
        subscriber.undelay(batch, mask)
        _to_front(subscriber, [(batch, mask)])
        step.state.dirty[subscriber] = None


def _to_front(subscriber: SubscriberState, events: list[tuple[EventBatch, int]]) -> None:
    for batch, mask in reversed(events):
        fresh = mask
        for index in reversed(list(bits(mask))) if subscriber.attempts else ():
            if batch.first + index in subscriber.attempts:
                subscriber.quarantine.appendleft((batch, 1 << index))
                fresh &= ~(1 << index)
        if fresh:
            subscriber.to_front(batch, fresh)


def _record_returned(
    step: Step,
    endpoint: Endpoint,
    kind: HistoryKind,
    returned: list[tuple[EventBatch, int]],
    reason: str | None = None,
) -> None:
    subscriber = endpoint.subscriber
    for batch, mask in returned:
        subscriber.redelivered += mask.bit_count()
        step.state.dirty[subscriber] = None
        entry = (step.now_ns, kind, batch.first, mask, batch.topics, endpoint.pid, subscriber.key, reason)
        step.state.event_log.append(entry)


def _still_wanted(
    step: Step, subscriber: SubscriberState, events: list[tuple[EventBatch, int]]
) -> list[tuple[EventBatch, int]]:
    """Those of `events`, which nobody holds any more, that another process is to get."""
    wanted = []
    for batch, mask in events:
        back = mask & batch.unsettled[batch.route.row_of[subscriber.number]]
        expired = back & batch.expired
        homeless = back & batch.without_topic() & ~expired
        for useless, reason in ((expired, EXPIRED), (homeless, "its topic was unregistered")):
            if useless:
                skip_held(step, batch, useless, subscriber, reason)
        late = mask & ~back
        if late:
            # Settled by another process while this one held it: it only pinned the memory.
            unpin(step, batch, late, subscriber)
        back &= ~(expired | homeless)
        if back:
            wanted.append((batch, back))
    return wanted


def _quarantine_crashed(
    step: Step, subscriber: SubscriberState, events: list[tuple[EventBatch, int]], reason: str | None
) -> None:
    """Any of these may be what crashed the process: each is sent alone from now on, and given up after enough
    crashes."""
    text = reason or PROCESS_CRASHED
    hopeless = []
    for batch, mask in reversed(events):
        for index in reversed(list(bits(mask))):
            sequence = batch.first + index
            crashes = subscriber.attempts[sequence] = subscriber.attempts.get(sequence, 0) + 1
            failure = subscriber.failure(batch, index, step.now_ns)
            failure.last_ns, failure.error, failure.text, failure.traceback = step.now_ns, "", text, ""
            subscriber.quarantine.appendleft((batch, 1 << index))
            if crashes >= step.state.config.crashes_max:
                hopeless.append((batch, 1 << index, crashes))
    for batch, bit, crashes in hopeless:
        last = f"its process crashed {crashes} times with it" if reason is None else f"{reason} at attempt {crashes}"
        give_up(step, batch, bit, subscriber, last)
