"""Deliveries that come back: from a process that crashed, left, or handed them back unstarted."""

from __future__ import annotations

from eventbus_mp.core.entities import Endpoint, EventBatch, SubscriberState
from eventbus_mp.core.masks import bits
from eventbus_mp.core.settlement import unpin
from eventbus_mp.core.skips import give_up, skip_held
from eventbus_mp.core.state import Step

__all__ = ["reclaim", "return_to_front"]


def reclaim(step: Step, endpoint: Endpoint, *, crashed: bool) -> None:
    """The endpoint is gone: what it held goes back to the front, the oldest first."""
    subscriber = endpoint.subscriber
    in_flight = endpoint.release_all_in_flight()
    if crashed:
        returned = _still_wanted(step, subscriber, in_flight)
        _record_returned(step, subscriber, "its process crashed", returned)
        _quarantine_crashed(step, subscriber, returned)
    else:
        return_to_front(step, subscriber, in_flight)


def return_to_front(step: Step, subscriber: SubscriberState, events: list[tuple[EventBatch, int]]) -> None:
    """Queue events again without counting an attempt; what was in quarantine goes there again."""
    returned = _still_wanted(step, subscriber, events)
    for batch, mask in reversed(returned):
        fresh = mask
        for index in reversed(list(bits(mask))) if subscriber.attempts else ():
            if batch.first + index in subscriber.attempts:
                subscriber.quarantine.appendleft((batch, 1 << index))
                fresh &= ~(1 << index)
        if fresh:
            row = batch.route.row_of[subscriber.number]
            if not batch.waiting[row]:
                subscriber.queue.appendleft(batch)
            batch.waiting[row] |= fresh
            subscriber.queued += fresh.bit_count()
    _record_returned(step, subscriber, "handed back", returned)


def _record_returned(
    step: Step, subscriber: SubscriberState, what: str, returned: list[tuple[EventBatch, int]]
) -> None:
    for batch, mask in returned:
        subscriber.redelivered += mask.bit_count()
        step.state.dirty[subscriber] = None
        step.state.event_log.record(step.now_ns, f"{subscriber.name}: {what}", batch.first, mask)


def _still_wanted(
    step: Step, subscriber: SubscriberState, events: list[tuple[EventBatch, int]]
) -> list[tuple[EventBatch, int]]:
    """Those of `events`, which nobody holds any more, that another process is to get."""
    wanted = []
    for batch, mask in events:
        back = mask & batch.unsettled[batch.route.row_of[subscriber.number]]
        expired = back & batch.expired
        homeless = back & batch.without_topic() & ~expired
        for useless, reason in ((expired, "expired"), (homeless, "its topic was unregistered")):
            if useless:
                skip_held(step, batch, useless, subscriber, reason)
        late = mask & ~back
        if late:
            # Settled by another process while this one held it: it only pinned the memory.
            unpin(step, batch, late)
        back &= ~(expired | homeless)
        if back:
            wanted.append((batch, back))
    return wanted


def _quarantine_crashed(step: Step, subscriber: SubscriberState, events: list[tuple[EventBatch, int]]) -> None:
    """Any of these may be what crashed the process: each is sent alone from now on, and given up after enough
    crashes."""
    hopeless = []
    for batch, mask in reversed(events):
        for index in reversed(list(bits(mask))):
            sequence = batch.first + index
            crashes = subscriber.attempts[sequence] = subscriber.attempts.get(sequence, 0) + 1
            subscriber.quarantine.appendleft((batch, 1 << index))
            if crashes >= step.state.config.crashes_max:
                hopeless.append((batch, 1 << index, crashes))
    for batch, bit, crashes in hopeless:
        give_up(step, batch, bit, subscriber, f"its process crashed {crashes} times with it")
