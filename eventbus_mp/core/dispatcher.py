"""The dispatcher: which endpoint gets which shadow. Credit, order, redelivery."""

from __future__ import annotations

from collections import deque
from operator import attrgetter

from eventbus_mp.core.batches import EventBatch, lowest
from eventbus_mp.core.event_log import EventLog
from eventbus_mp.core.registry import SubscriberState
from eventbus_mp.protocol.effects import Deliver, Effect

__all__ = ["Endpoint", "dispatch", "note_stale"]

CREDIT_FIRST = 2
"""What an endpoint with automatic credit begins with: one to work on, one to go on with."""
QUEUED_WORK_NS = 4_000_000
"""Automatic credit aims at this much queued work an endpoint: some rounds of the manager, which rests for a fifth of a
millisecond under load, and of a worker, which settles every two."""
QUEUED_SLOW, QUEUED_SLOW_NS = 8, 8_000_000
"""So many that take longer make up to so much: of tasks of 1 ms eight, of which a worker settles four at once. With
four it ran dry now and then, and each wake-up of the manager takes from a worker's core: 3 % of the throughput."""
SHARE_NS = 250_000
"""Less work than this is not divided among several endpoints: a message costs the manager and the process some 50 us.
With 64 endpoints of a fast handler, dividing everything evenly cost four times as much an event as with one."""
SLOW_NS = 10_000_000
"""From this cost on, a second shadow waits longer behind the first than a free process would need to take it."""


class Endpoint:
    """One process's place for one subscriber. `held` is what it was sent and has not settled: run -> mask."""

    __slots__ = (
        "cost_ns",
        "credit",
        "credit_max",
        "in_flight",
        "in_flight_count",
        "is_resyncing",
        "link",
        "since_ns",
        "subscriber",
    )

    def __init__(self, link: int, subscriber: SubscriberState, credit: int, credit_max: int) -> None:
        self.link = link
        self.subscriber = subscriber
        self.in_flight: dict[EventBatch, int] = {}
        self.in_flight_count = 0
        """How many events are in `held`."""
        self.cost_ns = 0
        self.since_ns = 0
        self.credit_max = 0 if credit else credit_max
        """The bound of automatic credit; 0: the credit is fixed."""
        self.credit = credit or CREDIT_FIRST
        self.is_resyncing = False
        """The manager was replaced, and its process has not told yet what arrived: what did not goes first."""

    @property
    def free(self) -> int:
        """How many more it may be sent."""
        return 0 if self.is_resyncing else self.credit - self.in_flight_count

    @property
    def min_batch(self) -> int:
        """How many events are worth a message of their own: as many as make `SHARE_NS` of work."""
        return SHARE_NS // self.cost_ns if self.cost_ns else 1

    def add_in_flight(self, batch: EventBatch, mask: int) -> None:
        self.in_flight[batch] = self.in_flight.get(batch, 0) | mask
        self.in_flight_count += mask.bit_count()

    def release_in_flight(self, batch: EventBatch, mask: int) -> int:
        """Take these events of the run out of its hands, as far as they are there: the mask of those."""
        in_flight = self.in_flight.get(batch, 0)
        hit = in_flight & mask
        if hit == in_flight:
            self.in_flight.pop(batch, None)
        else:
            self.in_flight[batch] = in_flight ^ hit
        self.in_flight_count -= hit.bit_count()
        return hit

    def update_credit(self, settled: int, now_ns: int, reported_ns: int = 0) -> None:
        """Set the credit to what the time per delivery makes about `QUEUED_WORK_NS`.

        `told_ns` is what the process measured. Seen from here, one of many processes on few cores looks slow.
        """
        cost_ns = reported_ns or (now_ns - self.since_ns) // settled + 1
        self.since_ns = now_ns
        self.cost_ns = cost_ns = (self.cost_ns + cost_ns) // 2 if self.cost_ns else cost_ns
        if not self.credit_max:
            return
        if cost_ns > SLOW_NS:
            self.credit = 1
        else:
            slow = min(QUEUED_SLOW, QUEUED_SLOW_NS // cost_ns)
            self.credit = min(max(QUEUED_WORK_NS // cost_ns, slow, CREDIT_FIRST), self.credit_max)


def dispatch(subscriber: SubscriberState, event_log: EventLog, now_ns: int, effects: list[Effect]) -> None:
    """Send what waits for `subscriber` to the endpoints with the most free credit, as far as credit goes."""
    endpoints = subscriber.endpoints
    if subscriber.attempts:
        _dispatch_quarantined(subscriber, event_log, now_ns, effects)
        if subscriber.quarantine:
            # Fresh events wait, so that an endpoint runs empty soon and can take the next suspect.
            return
        # Who has a suspect in hand gets nothing beside it.
        endpoints = [endpoint for endpoint in endpoints if not _has_quarantined(endpoint)]
    if not subscriber.queued:
        return
    if len(endpoints) == 1:
        if endpoints[0].free > 0:
            _send(subscriber, endpoints[0], endpoints[0].free, event_log, now_ns, effects)
        return
    for endpoint, share in _split(endpoints, subscriber.queued):
        _send(subscriber, endpoint, share, event_log, now_ns, effects)


_free_of = attrgetter("free")


def _split(endpoints: list[Endpoint], waiting: int) -> list[tuple[Endpoint, int]]:
    """Who gets how many, as far as credit goes: even shares, but none that is not worth a message."""
    if not endpoints:
        return []
    freest = max(endpoints, key=_free_of)
    if waiting <= min(freest.min_batch, freest.free):
        return [(freest, waiting)]  # What follows would come to that, too, in five times the time with 64 endpoints.
    ready = sorted([item for item in endpoints if item.free > 0], key=_free_of, reverse=True)
    free = [endpoint.free for endpoint in ready]
    shares = [0] * len(ready)
    for index, endpoint in enumerate(ready):
        even = -(-waiting // (len(ready) - index))
        shares[index] = min(max(even, endpoint.min_batch), free[index], waiting)
        waiting -= shares[index]
    for index in range(len(ready)):  # What one could not take, those with more take besides.
        more = min(free[index] - shares[index], waiting)
        shares[index] += more
        waiting -= more
    return [(endpoint, share) for endpoint, share in zip(ready, shares, strict=True) if share]


def _send(
    subscriber: SubscriberState, endpoint: Endpoint, limit: int, event_log: EventLog, now_ns: int, effects: list[Effect]
) -> None:
    if not endpoint.in_flight_count:
        endpoint.since_ns = now_ns
    what = f"sent to {subscriber.name} on link {endpoint.link}"
    parts = []
    for batch, mask in _take(subscriber, limit):
        endpoint.add_in_flight(batch, mask)
        parts.append(batch.cut(mask))
        event_log.record(now_ns, what, batch.first, mask)
    effects.append(Deliver(endpoint.link, subscriber.number, 1, parts[0] if len(parts) == 1 else b"".join(parts)))


def _take(subscriber: SubscriberState, limit: int) -> list[tuple[EventBatch, int]]:
    """Like a popleft of up to `most` deliveries; there is at least one."""
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
        batch.waiting[row] ^= mask
        subscriber.queued -= count
        limit -= count
        taken.append((batch, mask))
    return taken


def _has_quarantined(endpoint: Endpoint) -> bool:
    """Whether it was sent a suspect, which it then holds alone."""
    for batch, mask in endpoint.in_flight.items():
        return batch.first + mask.bit_length() - 1 in endpoint.subscriber.attempts
    return False


def _dispatch_quarantined(subscriber: SubscriberState, event_log: EventLog, now_ns: int, effects: list[Effect]) -> None:
    quarantine = subscriber.quarantine
    for endpoint in subscriber.endpoints:
        if quarantine and not endpoint.in_flight_count and not endpoint.is_resyncing:
            batch, bit = quarantine.popleft()
            endpoint.since_ns = now_ns
            endpoint.add_in_flight(batch, bit)
            attempt = subscriber.attempts[batch.first + bit.bit_length() - 1] + 1
            effects.append(Deliver(endpoint.link, subscriber.number, attempt, batch.cut(bit)))
            what = f"sent to {subscriber.name} on link {endpoint.link}, attempt {attempt}"
            event_log.record(now_ns, what, batch.first, bit)


def note_stale(subscriber: SubscriberState) -> None:
    """Nothing waits any more of a run in the queue; drop such ones once they are the greater part of it."""
    subscriber.stale += 1
    if subscriber.stale * 2 <= len(subscriber.queue):
        return
    number = subscriber.number
    # A run that came back meanwhile has two places.
    waiting = dict.fromkeys(batch for batch in subscriber.queue if batch.waiting[batch.route.row_of[number]])
    subscriber.queue = deque(waiting)
    subscriber.stale = 0
