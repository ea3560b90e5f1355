"""The dispatcher: which endpoint gets which shadow. Credit, order, redelivery."""

from __future__ import annotations

from eventbus_mp.core.registry import SubscriberState
from eventbus_mp.core.story import Story
from eventbus_mp.core.watcher import Unsettled
from eventbus_mp.effects import Deliver, Effect

__all__ = ["Endpoint", "dispatch", "note_stale"]

CREDIT_FIRST = 2
"""What an endpoint with automatic credit begins with: one to work on, one to go on with."""
QUEUED_WORK_NS = 4_000_000
"""Automatic credit aims at this much queued work an endpoint: some rounds of the manager, which rests for a tenth of a
millisecond under load, and of a worker, which settles every half. Whether 1 ms would do as well is not measured yet."""
SLOW_NS = 10_000_000
"""From this cost on, a second shadow waits longer behind the first than a free process would need to take it."""


class Endpoint:
    """One process's place for one subscriber. `held` are the events it was sent and has not settled, oldest first."""

    __slots__ = ("cost_ns", "credit", "credit_max", "held", "link", "since_ns", "subscriber")

    def __init__(self, link: int, subscriber: SubscriberState, credit: int, credit_max: int) -> None:
        self.link = link
        self.subscriber = subscriber
        self.held: dict[int, Unsettled] = {}
        self.cost_ns = 0
        self.since_ns = 0
        self.credit_max = 0 if credit else credit_max
        """The bound of automatic credit; 0: the credit is fixed."""
        self.credit = credit or CREDIT_FIRST

    def learn(self, settled: int, now_ns: int) -> None:
        """Set the credit to what the measured time per delivery makes about `QUEUED_WORK_NS`."""
        if not self.credit_max:
            return
        cost_ns = (now_ns - self.since_ns) // settled
        self.since_ns = now_ns
        self.cost_ns = cost_ns = (self.cost_ns + cost_ns) // 2 if self.cost_ns else cost_ns
        if cost_ns > SLOW_NS:
            self.credit = 1
        else:
            self.credit = min(max(QUEUED_WORK_NS // (cost_ns or 1), CREDIT_FIRST), self.credit_max)


def dispatch(subscriber: SubscriberState, story: Story, now_ns: int, effects: list[Effect]) -> None:
    """Send what waits for `subscriber` to the endpoints with the most free credit, as far as credit goes."""
    endpoints = subscriber.endpoints
    if subscriber.attempts:
        _dispatch_suspects(subscriber, story, now_ns, effects)
        if subscriber.suspects:
            # Fresh events wait, so that an endpoint runs empty soon and can take the next suspect.
            return
        # Who has a suspect in hand gets nothing beside it.
        endpoints = [item for item in endpoints if next(iter(item.held), None) not in subscriber.attempts]
    queue = subscriber.queue
    if not queue:
        return
    if len(endpoints) == 1:
        free = endpoints[0].credit - len(endpoints[0].held)
        if free > 0:
            _send(subscriber, endpoints[0], free, story, now_ns, effects)
        return
    ready = [endpoint for endpoint in reversed(endpoints) if endpoint.credit > len(endpoint.held)]
    ready.sort(key=lambda endpoint: endpoint.credit - len(endpoint.held))
    # Even shares, from the least free credit up: what one cannot take, those with more take instead.
    waiting, counts = len(queue) - subscriber.stale, []
    for index, endpoint in enumerate(ready):
        counts.append(min(waiting // (len(ready) - index), endpoint.credit - len(endpoint.held)))
        waiting -= counts[-1]
    while ready and counts[-1]:
        _send(subscriber, ready.pop(), counts.pop(), story, now_ns, effects)


def _send(
    subscriber: SubscriberState, endpoint: Endpoint, most: int, story: Story, now_ns: int, effects: list[Effect]
) -> None:
    queue = subscriber.queue
    if subscriber.stale:
        events = _take_unsettled(subscriber, most)
    elif most >= len(queue):
        events = list(queue)
        queue.clear()
    else:
        popleft = queue.popleft
        events = [popleft() for _ in range(most)]
    if not events:
        return
    held = endpoint.held
    if not held:
        endpoint.since_ns = now_ns
    for event in events:
        held[event.sequence] = event
    effects.append(Deliver(endpoint.link, subscriber.number, 1, [event.raw for event in events]))
    story.tell(now_ns, f"sent to {subscriber.name} on link {endpoint.link}", [event.sequence for event in events])


def _take_unsettled(subscriber: SubscriberState, most: int) -> list[Unsettled]:
    """Like a popleft of `most`, without the events that were settled in the queue."""
    number, queue = subscriber.number, subscriber.queue
    events: list[Unsettled] = []
    while queue and len(events) < most:
        event = queue.popleft()
        if event.unsettled & event.route.bit_of[number]:
            events.append(event)
        else:
            subscriber.stale -= 1
    return events


def _dispatch_suspects(subscriber: SubscriberState, story: Story, now_ns: int, effects: list[Effect]) -> None:
    suspects, bit_key = subscriber.suspects, subscriber.number
    for endpoint in subscriber.endpoints:
        while suspects and not endpoint.held:
            event = suspects.popleft()
            if not event.unsettled & event.route.bit_of[bit_key]:
                continue
            endpoint.since_ns = now_ns
            endpoint.held[event.sequence] = event
            attempt = subscriber.attempts.get(event.sequence, 0) + 1
            effects.append(Deliver(endpoint.link, subscriber.number, attempt, [event.raw]))
            what = f"sent to {subscriber.name} on link {endpoint.link}, attempt {attempt}"
            story.tell(now_ns, what, [event.sequence])


def note_stale(subscriber: SubscriberState) -> None:
    """One queued delivery was settled where it waits; drop such ones once they are the greater part of the queue."""
    subscriber.stale += 1
    if subscriber.stale * 2 <= len(subscriber.queue):
        return
    number = subscriber.number
    waiting = [event for event in subscriber.queue if event.unsettled & event.route.bit_of[number]]
    subscriber.queue.clear()
    subscriber.queue.extend(waiting)
    subscriber.stale = 0
