"""The dispatcher: which endpoint gets which shadow. Credit bounds how many; quarantined ones are sent alone."""

from __future__ import annotations

from itertools import groupby, islice
from operator import attrgetter

from eventbus_mp.core.backpressure import hold_back
from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.masks import bits, lowest
from eventbus_mp.core.recalls import note_sharing
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.effects import Deliver
from eventbus_mp.protocol.history_kinds import HistoryKind

__all__ = ["deliver_by_attempt", "dispatch"]

SENT = HistoryKind.SENT


def dispatch(step: Step, subscriber: SubscriberState) -> None:
    """Send what waits for `subscriber` to the endpoints with the most free credit, up to the available credit."""
    endpoints = subscriber.endpoints
    if subscriber.outputs and hold_back(step, subscriber):
        return
    if subscriber.attempts:
        _dispatch_quarantined(step, subscriber)
        if subscriber.quarantine:
            # Fresh events wait, so that an endpoint soon has nothing in flight and can take the next one.
            return
        # An endpoint with a quarantined event in flight gets nothing beside it.
        endpoints = [endpoint for endpoint in endpoints if not _has_quarantined(endpoint)]
    if not subscriber.queued:
        return
    if subscriber.shares_out:
        _dispatch_beyond(step, subscriber, endpoints)
        return
    if len(endpoints) == 1:
        free = endpoints[0].free
        if free > 0:
            _send(step, subscriber, endpoints[0], free)
        return
    for endpoint, share in _split(endpoints, subscriber.queued):
        _send(step, subscriber, endpoint, share)


def _dispatch_beyond(step: Step, subscriber: SubscriberState, endpoints: list[Endpoint]) -> None:
    """As `dispatch`, where some of the endpoints forward to other hosts.

    These get nothing that has come from another host. So what is at the front decides who has a share: it is sent run
    by run, of events of this host and of others.
    """
    home = [endpoint for endpoint in endpoints if not endpoint.forwards]
    while subscriber.queued:
        is_imported = _front(subscriber).is_imported
        able = [endpoint for endpoint in (home if is_imported else endpoints) if endpoint.free > 0]
        waiting = _run_length(subscriber, is_imported, sum(endpoint.free for endpoint in able))
        if not waiting:
            return
        for endpoint, share in _split(able, waiting):
            _send(step, subscriber, endpoint, share)


def _front(subscriber: SubscriberState) -> EventBatch:
    """The first batch of the queue of which something waits; there is one."""
    queue, number = subscriber.queue, subscriber.number
    while not queue[0].waiting[queue[0].route.row_of[number]]:
        queue.popleft()
        subscriber.stale -= 1
    return queue[0]


def _run_length(subscriber: SubscriberState, is_imported: bool, limit: int) -> int:
    """How many deliveries at the front are, or are not, of another host, up to `limit`."""
    number, count = subscriber.number, 0
    for batch in dict.fromkeys(islice(subscriber.queue, limit + subscriber.stale)):
        waiting = batch.waiting[batch.route.row_of[number]]
        if (waiting and batch.is_imported is not is_imported) or count >= limit:
            break
        count += waiting.bit_count()
    return min(count, limit)


_free_of = attrgetter("free")


def _split(endpoints: list[Endpoint], waiting: int) -> list[tuple[Endpoint, int]]:
    """How many each endpoint gets, up to its free credit: even shares, but none that is not worth a message."""
    if not endpoints:
        return []
    freest = max(endpoints, key=_free_of)
    if waiting <= min(freest.min_batch, freest.free):
        return [(freest, waiting)]  # What follows gives the same, in five times the time with 64 endpoints.
    ready = sorted([item for item in endpoints if item.free > 0], key=_free_of, reverse=True)
    free = [endpoint.free for endpoint in ready]
    shares = [0] * len(ready)
    for index, endpoint in enumerate(ready):
        even = -(-waiting // (len(ready) - index))
        shares[index] = min(max(even, endpoint.min_batch), free[index], waiting)
        waiting -= shares[index]
    for index in range(len(ready)):  # What one could not take goes to those with more credit.
        more = min(free[index] - shares[index], waiting)
        shares[index] += more
        waiting -= more
    return [(endpoint, share) for endpoint, share in zip(ready, shares, strict=True) if share]


def _send(step: Step, subscriber: SubscriberState, endpoint: Endpoint, limit: int) -> None:
    now_ns, log = step.now_ns, step.state.event_log.append
    if not endpoint.in_flight_count:
        endpoint.since_ns = now_ns
    pid, key = endpoint.pid, subscriber.key
    parts = []
    sent = _take(subscriber, limit)
    failed = subscriber.failed
    if failed and any(mask & failed.get(batch, 0) for batch, mask in sent):
        for batch, mask in sent:
            endpoint.add_in_flight(batch, mask)
        deliver_by_attempt(step, endpoint, sent, SENT)
    else:
        for batch, mask in sent:
            endpoint.add_in_flight(batch, mask)
            parts.append(batch.cut(mask))
            log((now_ns, SENT, batch.first, mask, batch.topics, pid, key, 1))
        packed = parts[0] if len(parts) == 1 else b"".join(parts)
        step.effects.append(Deliver(endpoint.link, subscriber.number, 1, packed))
    if endpoint.in_flight_count > 1 and len(subscriber.endpoints) > 1:
        note_sharing(step, subscriber)


def deliver_by_attempt(step: Step, endpoint: Endpoint, sent: list[tuple[EventBatch, int]], kind: HistoryKind) -> None:
    """Send deliveries, of which some may have been tried before: in order, those with the same number together."""
    subscriber = endpoint.subscriber
    singles = [(batch, index) for batch, mask in sent for index in bits(mask)]
    for attempt, group in groupby(singles, lambda item: subscriber.attempt_of(item[0].first + item[1])):
        masks: dict[EventBatch, int] = {}
        for batch, index in group:
            masks[batch] = masks.get(batch, 0) | 1 << index
        for batch, mask in masks.items():
            step.log(kind, batch, mask, subscriber, attempt, endpoint.pid)
        packed = b"".join([batch.cut(mask) for batch, mask in masks.items()])
        step.effects.append(Deliver(endpoint.link, subscriber.number, attempt, packed))


def _take(subscriber: SubscriberState, limit: int) -> list[tuple[EventBatch, int]]:
    """Take up to `limit` deliveries off the front of the queue; at least one waits there."""
    number, queue = subscriber.number, subscriber.queue
    taken = []
    while queue and limit:
        batch = queue[0]
        row = batch.route.row_of[number]
        mask = batch.waiting[row]
        count = mask.bit_count()
        if count > limit:
            mask, count = lowest(mask, limit), limit
        else:
            queue.popleft()
            if not mask:
                subscriber.stale -= 1
                continue
        batch.waiting[row] &= ~mask
        subscriber.queued -= count
        limit -= count
        taken.append((batch, mask))
    return taken


def _has_quarantined(endpoint: Endpoint) -> bool:
    """Whether it was sent a quarantined event that it has not taken, which is then the only one."""
    if endpoint.untaken == 1:
        for batch, mask in endpoint.in_flight.items():
            untaken = mask & ~endpoint.taken.get(batch, 0)
            if untaken:
                return batch.first + untaken.bit_length() - 1 in endpoint.subscriber.attempts
    return False


def _dispatch_quarantined(step: Step, subscriber: SubscriberState) -> None:
    """Send one quarantined event to each endpoint that has taken all it was sent.

    What it has taken and keeps does not hinder: a listener may settle nothing before it has got the next one.
    """
    quarantine = subscriber.quarantine
    for endpoint in subscriber.endpoints:
        if quarantine and not endpoint.untaken and endpoint.free > 0:
            if endpoint.forwards and quarantine[0][0].is_imported:
                continue
            batch, bit = quarantine.popleft()
            if not endpoint.in_flight_count:
                endpoint.since_ns = step.now_ns
            endpoint.add_in_flight(batch, bit)
            attempt = subscriber.attempt_of(batch.first + bit.bit_length() - 1)
            step.effects.append(Deliver(endpoint.link, subscriber.number, attempt, batch.cut(bit)))
            entry = (step.now_ns, SENT, batch.first, bit, batch.topics, endpoint.pid, subscriber.key, attempt)
            step.state.event_log.append(entry)
