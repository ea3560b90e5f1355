"""The dispatcher: which endpoint gets which shadow. Credit, order, redelivery."""

from __future__ import annotations

from collections import deque
from operator import attrgetter

from eventbus_mp.core.registry import SubscriberState
from eventbus_mp.core.runs import Run, lowest
from eventbus_mp.core.story import Story
from eventbus_mp.effects import Deliver, Effect

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

    __slots__ = ("cost_ns", "credit", "credit_max", "held", "holding", "is_unsure", "link", "since_ns", "subscriber")

    def __init__(self, link: int, subscriber: SubscriberState, credit: int, credit_max: int) -> None:
        self.link = link
        self.subscriber = subscriber
        self.held: dict[Run, int] = {}
        self.holding = 0
        """How many events are in `held`."""
        self.cost_ns = 0
        self.since_ns = 0
        self.credit_max = 0 if credit else credit_max
        """The bound of automatic credit; 0: the credit is fixed."""
        self.credit = credit or CREDIT_FIRST
        self.is_unsure = False
        """The manager was replaced, and its process has not told yet what arrived: what did not goes first."""

    @property
    def free(self) -> int:
        """How many more it may be sent."""
        return 0 if self.is_unsure else self.credit - self.holding

    @property
    def worth(self) -> int:
        """How many events are worth a message of their own: as many as make `SHARE_NS` of work."""
        return SHARE_NS // self.cost_ns if self.cost_ns else 1

    def hold(self, run: Run, mask: int) -> None:
        self.held[run] = self.held.get(run, 0) | mask
        self.holding += mask.bit_count()

    def let_go(self, run: Run, mask: int) -> int:
        """Take these events of the run out of its hands, as far as they are there: the mask of those."""
        held = self.held.get(run, 0)
        hit = held & mask
        if hit == held:
            self.held.pop(run, None)
        else:
            self.held[run] = held ^ hit
        self.holding -= hit.bit_count()
        return hit

    def learn(self, settled: int, now_ns: int, told_ns: int = 0) -> None:
        """Set the credit to what the time per delivery makes about `QUEUED_WORK_NS`.

        `told_ns` is what the process measured. Seen from here, one of many processes on few cores looks slow.
        """
        cost_ns = told_ns or (now_ns - self.since_ns) // settled + 1
        self.since_ns = now_ns
        self.cost_ns = cost_ns = (self.cost_ns + cost_ns) // 2 if self.cost_ns else cost_ns
        if not self.credit_max:
            return
        if cost_ns > SLOW_NS:
            self.credit = 1
        else:
            slow = min(QUEUED_SLOW, QUEUED_SLOW_NS // cost_ns)
            self.credit = min(max(QUEUED_WORK_NS // cost_ns, slow, CREDIT_FIRST), self.credit_max)


def dispatch(subscriber: SubscriberState, story: Story, now_ns: int, effects: list[Effect]) -> None:
    """Send what waits for `subscriber` to the endpoints with the most free credit, as far as credit goes."""
    endpoints = subscriber.endpoints
    if subscriber.attempts:
        _dispatch_suspects(subscriber, story, now_ns, effects)
        if subscriber.suspects:
            # Fresh events wait, so that an endpoint runs empty soon and can take the next suspect.
            return
        # Who has a suspect in hand gets nothing beside it.
        endpoints = [endpoint for endpoint in endpoints if not _has_suspect(endpoint)]
    if not subscriber.queued:
        return
    if len(endpoints) == 1:
        if endpoints[0].free > 0:
            _send(subscriber, endpoints[0], endpoints[0].free, story, now_ns, effects)
        return
    for endpoint, share in _shares(endpoints, subscriber.queued):
        _send(subscriber, endpoint, share, story, now_ns, effects)


_free_of = attrgetter("free")


def _shares(endpoints: list[Endpoint], waiting: int) -> list[tuple[Endpoint, int]]:
    """Who gets how many, as far as credit goes: even shares, but none that is not worth a message."""
    if not endpoints:
        return []
    freest = max(endpoints, key=_free_of)
    if waiting <= min(freest.worth, freest.free):
        return [(freest, waiting)]  # What follows would come to that, too, in five times the time with 64 endpoints.
    ready = sorted([item for item in endpoints if item.free > 0], key=_free_of, reverse=True)
    free = [endpoint.free for endpoint in ready]
    shares = [0] * len(ready)
    for index, endpoint in enumerate(ready):
        even = -(-waiting // (len(ready) - index))
        shares[index] = min(max(even, endpoint.worth), free[index], waiting)
        waiting -= shares[index]
    for index in range(len(ready)):  # What one could not take, those with more take besides.
        more = min(free[index] - shares[index], waiting)
        shares[index] += more
        waiting -= more
    return [(endpoint, share) for endpoint, share in zip(ready, shares, strict=True) if share]


def _send(
    subscriber: SubscriberState, endpoint: Endpoint, most: int, story: Story, now_ns: int, effects: list[Effect]
) -> None:
    if not endpoint.holding:
        endpoint.since_ns = now_ns
    what = f"sent to {subscriber.name} on link {endpoint.link}"
    parts = []
    for run, mask in _take(subscriber, most):
        endpoint.hold(run, mask)
        parts.append(run.cut(mask))
        story.tell(now_ns, what, run.first, mask)
    effects.append(Deliver(endpoint.link, subscriber.number, 1, parts[0] if len(parts) == 1 else b"".join(parts)))


def _take(subscriber: SubscriberState, most: int) -> list[tuple[Run, int]]:
    """Like a popleft of up to `most` deliveries; there is at least one."""
    number, queue = subscriber.number, subscriber.queue
    taken = []
    while queue and most:
        run = queue[0]
        row = run.route.row_of[number]
        mask = run.waiting[row]
        count = mask.bit_count()
        if count > most:
            mask, count = lowest(mask, most), most
        else:
            queue.popleft()
            if not mask:
                subscriber.stale -= 1
                continue
        run.waiting[row] ^= mask
        subscriber.queued -= count
        most -= count
        taken.append((run, mask))
    return taken


def _has_suspect(endpoint: Endpoint) -> bool:
    """Whether it was sent a suspect, which it then holds alone."""
    for run, mask in endpoint.held.items():
        return run.first + mask.bit_length() - 1 in endpoint.subscriber.attempts
    return False


def _dispatch_suspects(subscriber: SubscriberState, story: Story, now_ns: int, effects: list[Effect]) -> None:
    suspects = subscriber.suspects
    for endpoint in subscriber.endpoints:
        if suspects and not endpoint.holding and not endpoint.is_unsure:
            run, bit = suspects.popleft()
            endpoint.since_ns = now_ns
            endpoint.hold(run, bit)
            attempt = subscriber.attempts[run.first + bit.bit_length() - 1] + 1
            effects.append(Deliver(endpoint.link, subscriber.number, attempt, run.cut(bit)))
            what = f"sent to {subscriber.name} on link {endpoint.link}, attempt {attempt}"
            story.tell(now_ns, what, run.first, bit)


def note_stale(subscriber: SubscriberState) -> None:
    """Nothing waits any more of a run in the queue; drop such ones once they are the greater part of it."""
    subscriber.stale += 1
    if subscriber.stale * 2 <= len(subscriber.queue):
        return
    number = subscriber.number
    # A run that came back meanwhile has two places.
    waiting = dict.fromkeys(run for run in subscriber.queue if run.waiting[run.route.row_of[number]])
    subscriber.queue = deque(waiting)
    subscriber.stale = 0
