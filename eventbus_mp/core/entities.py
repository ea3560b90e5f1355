"""The nouns of the core: subscriber and endpoint. (Batches, topics and routes are in event_batch.py, links and leases
in links.py.)

They hold what is known and keep their own counts straight. What happens to them is decided by the functions of the
other modules; `state.py` has the object that holds all of them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Set

from eventbus_mp.core.backlog import Backlog
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.failures import Failure, SkipReasons
from eventbus_mp.core.masks import bits
from eventbus_mp.ids import EventId

__all__ = [
    "HANDLING_BUCKETS",
    "RECENT_SKIPS_MAX",
    "Endpoint",
    "SubscriberState",
    "shown_name",
]

RECENT_SKIPS_MAX = 100
"""How many skips of a subscriber are remembered with their reasons, the newest ones."""

HANDLING_BUCKETS = 33
"""A settle record reports a time in 32 bits of nanoseconds, so a `bit_length` is the index of its bucket."""

CREDIT_FIRST = 2
"""What an endpoint with automatic credit begins with, for each thread: one to work on, one to go on with."""
QUEUED_WORK_NS = 4_000_000
"""Automatic credit aims at this much queued work for each thread of an endpoint: some rounds of the manager, which
rests for a fifth of a millisecond under load, and of a worker, which settles every two."""
QUEUED_SLOW, QUEUED_SLOW_NS = 8, 8_000_000
"""Slow tasks: queue at most QUEUED_SLOW of them, or QUEUED_SLOW_NS of work. Tasks of 1 ms thus get eight, of which a
worker settles four at once. With a credit of four, workers ran dry now and then, and each wake-up of the manager takes
a core from a worker: 3 % of the throughput."""
SHARE_NS = 250_000
"""Less work than this is not divided among several endpoints: a message costs the manager and the process some 50 us.
With 64 endpoints of a fast handler, dividing everything evenly cost four times as much per event as one endpoint
did."""
SLOW_NS = 10_000_000
"""From this cost on, a second shadow would wait longer behind the first than a free process needs to take it."""


def shown_name(key: tuple[str, bytes, str]) -> str:
    """The name by which users know a subscriber: `bill`, or `bill@B` of host B."""
    name, _, host = key
    return f"{name}@{host}" if host else name


class SubscriberState:
    """One subscriber: what it wants, who hosts it, and what waits for it."""

    __slots__ = (
        "attempts",
        "backlog",
        "broadcast",
        "completed",
        "config",
        "delayed",
        "delayed_count",
        "endpoints",
        "failed",
        "failures",
        "handling",
        "host",
        "key",
        "matchers",
        "name",
        "number",
        "outputs",
        "patterns",
        "quarantine",
        "queue",
        "queued",
        "reasons",
        "recent_skips",
        "redelivered",
        "scope",
        "shares_out",
        "skipped",
        "stale",
    )

    def __init__(self, number: int, name: str, config: bytes, broadcast: bool, host: str = "") -> None:
        self.number = number
        self.name = name
        self.config = config
        self.host = host
        """Where its handlers are; empty: here."""
        self.key = (name, config, host)
        self.broadcast = broadcast
        self.scope = "host"
        """One of `protocol.requests.SCOPES`."""
        self.patterns: tuple[str, ...] = ()
        self.matchers: tuple[re.Pattern[str], ...] = ()
        self.outputs: Set[int] = frozenset()
        """The numbers of the topics that its handlers are known to publish to."""
        self.backlog: Backlog | None = None
        """None: it has no bound, and nothing is counted."""
        self.endpoints: list[Endpoint] = []
        self.shares_out = False
        """One of them forwards, although the subscriber is of this host: other hosts have a share of its events."""
        self.queue: deque[EventBatch] = deque()
        """Batches with events that wait, in the order of their events."""
        self.queued = 0
        """How many deliveries wait in these batches."""
        self.stale = 0
        """How many places in `queue` belong to batches of which nothing waits any more."""
        self.quarantine: deque[tuple[EventBatch, int]] = deque()
        """(batch, bit) of events whose holder crashed. They come before `queue`, and each is sent alone, so that the
        next crash accuses a single event."""
        self.attempts: dict[int, int] = {}
        """sequence -> crashes, of events that are or were in quarantine and are not settled."""
        self.delayed: dict[EventBatch, int] = {}
        """batch -> mask of deliveries that are to be tried again later (`BusState.delays` knows when), and of dead
        letters that wait for a process to be done with the one before (dead_letters.py)."""
        self.delayed_count = 0
        """How many deliveries are in `delayed`."""
        self.failures: dict[int, Failure] = {}
        """sequence -> what went wrong so far, of deliveries that are not settled."""
        self.failed: dict[EventBatch, int] = {}
        """batch -> mask of the deliveries in `failures`: one look says of a whole batch that there is none."""
        self.completed = 0
        self.skipped = 0
        self.redelivered = 0
        self.handling = [0] * HANDLING_BUCKETS
        """How long deliveries took in handlers: element k counts those of less than 2^k ns, and of 2^(k-1) or more."""
        self.recent_skips: deque[tuple[EventId, str]] = deque(maxlen=RECENT_SKIPS_MAX)
        """(event id, reason), the newest last."""
        self.reasons = SkipReasons()

    @property
    def shown(self) -> str:
        """The name by which users know it."""
        return shown_name(self.key)

    @property
    def is_home(self) -> bool:
        """Whether it is one of this host, which gets events of other hosts as well."""
        return not self.host and self.scope != "local"

    def note_endpoints(self) -> None:
        """There is an endpoint more or less."""
        self.shares_out = not self.host and any(endpoint.forwards for endpoint in self.endpoints)

    @property
    def waiting_count(self) -> int:
        """How many deliveries wait for a process, or for another attempt."""
        return self.queued + len(self.quarantine) + self.delayed_count

    def wants(self, topic: str) -> bool:
        """Whether one of its patterns matches the topic."""
        return any(matcher.match(topic) for matcher in self.matchers)

    def failure(self, batch: EventBatch, index: int, now_ns: int) -> Failure:
        """What went wrong with this delivery; noted from now on if it is the first time."""
        sequence = batch.first + index
        found = self.failures.get(sequence)
        if found is None:
            found = self.failures[sequence] = Failure(now_ns)
            self.failed[batch] = self.failed.get(batch, 0) | 1 << index
        return found

    def forget_failures(self, batch: EventBatch, mask: int) -> None:
        """These deliveries are settled."""
        hit = mask & self.failed.get(batch, 0)
        if hit:
            for index in bits(hit):
                del self.failures[batch.first + index]
            self.failed[batch] &= ~hit
            if not self.failed[batch]:
                del self.failed[batch]

    def attempt_of(self, sequence: int) -> int:
        """The number of the next attempt at this delivery, 1 for the first."""
        failure = self.failures.get(sequence)
        return 1 + self.attempts.get(sequence, 0) + (failure.attempts if failure else 0)

    def delay(self, batch: EventBatch, mask: int) -> None:
        """These deliveries, which nobody holds, wait for their time."""
        self.delayed[batch] = self.delayed.get(batch, 0) | mask
        self.delayed_count += mask.bit_count()

    def undelay(self, batch: EventBatch, mask: int) -> None:
        """These deliveries, which are delayed, wait no longer."""
        left = self.delayed.pop(batch) & ~mask
        if left:
            self.delayed[batch] = left
        self.delayed_count -= mask.bit_count()

    def to_front(self, batch: EventBatch, mask: int) -> None:
        """These deliveries, which nobody holds, wait again, in front of the others."""
        row = batch.route.row_of[self.number]
        if not batch.waiting[row]:
            self.queue.appendleft(batch)
        batch.waiting[row] |= mask
        self.queued += mask.bit_count()

    def note_stale(self) -> None:
        """A queued batch has nothing left that waits; rebuild the queue once most of its places are like that.

        Taking a batch out of the middle of a deque costs its length. Leaving the place, and dropping all such places
        when they are the greater part, costs a constant amount for each.
        """
        self.stale += 1
        if self.stale * 2 <= len(self.queue):
            return
        number = self.number
        # A batch that came back in the meantime has two places.
        self.queue = deque(dict.fromkeys(batch for batch in self.queue if batch.waiting[batch.route.row_of[number]]))
        self.stale = 0


def _age(item: tuple[EventBatch, int]) -> tuple[int, int]:
    return item[0].since_ns, item[0].first


class Endpoint:
    """One process's place for one subscriber. `in_flight` is what it was sent and has not settled: batch -> mask.

    Automatic credit bounds what the process has not yet taken: more would only wait there, while another process could
    have it. What it has taken and keeps counts towards `credit_max` only, so a listener that settles later gets more.
    A demand is the process's own word for how many it will take at once, and goes beyond the credit.
    """

    __slots__ = (
        "cost_ns",
        "credit",
        "demand",
        "forwards",
        "held_max",
        "in_flight",
        "in_flight_count",
        "is_automatic",
        "is_recalled",
        "is_resyncing",
        "link",
        "owes_all",
        "owes_return",
        "pid",
        "since_ns",
        "subscriber",
        "taken",
        "taken_count",
        "threads",
    )

    def __init__(
        self,
        link: int,
        subscriber: SubscriberState,
        credit: int,
        credit_max: int,
        pid: int = 0,
        *,
        forwards: bool = False,
    ) -> None:
        self.link = link
        self.pid = pid
        self.forwards = forwards
        """Its process takes the events to another host. It gets none that came from another one."""
        self.subscriber = subscriber
        self.in_flight: dict[EventBatch, int] = {}
        self.in_flight_count = 0
        """How many events are in `in_flight`."""
        self.threads = 1
        """How many of these it works on at once."""
        self.cost_ns = 0
        """What one delivery takes a thread, an average that follows quickly; 0: not known yet."""
        self.since_ns = 0
        """When its present work began."""
        self.is_automatic = not credit
        self.credit = credit or CREDIT_FIRST
        """How many events it may have that it has not taken."""
        self.held_max = credit or credit_max
        """How many unsettled events it may have, taken or not. With a fixed credit that is the credit."""
        self.taken: dict[EventBatch, int] = {}
        """What the process says that it has taken and not settled, of what is in flight: batch -> mask. A handler's
        deliveries never get here, so they cost nothing."""
        self.taken_count = 0
        """How many events are in `taken`."""
        self.demand = 0
        """How many events it has asked for and was not sent yet, beyond its credit."""
        self.is_recalled = False
        """It was asked to hand back what it has not taken, and has taken and settled nothing since: it gets nothing."""
        self.owes_return = False
        """It has not handed back anything since it was asked last: it is not asked again, for it may read nothing."""
        self.owes_all = False
        """It was asked to hand back all that it has not begun, and has not said yet that it has. It gets nothing until
        then, so that what comes back is before what is sent next."""
        self.is_resyncing = False
        """The manager was replaced, and the process has not yet reported what arrived. What is missing goes first."""

    @property
    def free(self) -> int:
        """How many more events it may be sent: not more than it wants, nor than it may hold."""
        if self.is_resyncing or self.is_recalled or self.owes_all:
            return 0
        in_flight = self.in_flight_count
        wanted = self.credit - in_flight
        if self.taken_count or self.demand:
            wanted = max(wanted + self.taken_count, self.demand)
        room = self.held_max - in_flight
        return wanted if wanted < room else room

    def hear(self) -> None:
        """It has taken or settled something, or asked for more: it is at work."""
        self.is_recalled = self.owes_return = False

    @property
    def untaken(self) -> int:
        """How many events were sent to it that it has neither settled nor reported as taken."""
        return self.in_flight_count - self.taken_count

    def work_with(self, threads: int) -> None:
        """From now on this many deliveries are worked on at once; automatic credit is enough for all of them."""
        self.threads = threads
        if self.is_automatic:
            self.credit = min(max(self.credit, CREDIT_FIRST * threads), self.held_max)

    @property
    def min_batch(self) -> int:
        """How many events are worth a message of their own: as many as make `SHARE_NS` of work."""
        return SHARE_NS // self.cost_ns if self.cost_ns else 1

    def add_in_flight(self, batch: EventBatch, mask: int) -> None:
        """These events were sent to it."""
        self.in_flight[batch] = self.in_flight.get(batch, 0) | mask
        count = mask.bit_count()
        self.in_flight_count += count
        if self.demand:
            self.demand = max(0, self.demand - count)

    def add_taken(self, batch: EventBatch, mask: int) -> None:
        """It has taken these events of the batch; those that it does not hold are passed over."""
        mask &= self.in_flight.get(batch, 0)
        if mask:
            before = self.taken.get(batch, 0)
            self.taken[batch] = before | mask
            self.taken_count += (mask & ~before).bit_count()

    def release_in_flight(self, batch: EventBatch, mask: int) -> int:
        """It no longer holds these events of the batch: the mask of those that it did hold."""
        in_flight = self.in_flight.get(batch, 0)
        hit = in_flight & mask
        if hit == in_flight:
            self.in_flight.pop(batch, None)
        else:
            self.in_flight[batch] = in_flight & ~hit
        self.in_flight_count -= hit.bit_count()
        if self.taken:
            self._release_taken(batch, hit)
        return hit

    def _release_taken(self, batch: EventBatch, mask: int) -> None:
        before = self.taken.pop(batch, 0)
        if before & ~mask:
            self.taken[batch] = before & ~mask
        self.taken_count -= (before & mask).bit_count()

    def release_all_in_flight(self) -> list[tuple[EventBatch, int]]:
        """It no longer holds anything: what it held, the oldest first."""
        # Not in the order of the table: what it has handed back, and then got again, is at the end there.
        events = sorted(self.in_flight.items(), key=_age)
        self.in_flight.clear()
        self.taken.clear()
        self.in_flight_count = self.taken_count = 0
        return events

    def update_credit(self, settled: int, now_ns: int, reported_ns: int = 0) -> None:
        """Set the credit so that it covers about `QUEUED_WORK_NS` of work.

        `reported_ns` is the cost of a delivery as the process measured it. The time seen from here is a poor
        substitute: one of many processes on few cores looks slow.
        """
        cost_ns = reported_ns or (now_ns - self.since_ns) // settled + 1
        self.since_ns = now_ns
        self.cost_ns = cost_ns = (self.cost_ns + cost_ns) // 2 if self.cost_ns else cost_ns
        if not self.is_automatic:
            return
        if cost_ns > SLOW_NS:
            credit = 1
        else:
            slow = min(QUEUED_SLOW, QUEUED_SLOW_NS // cost_ns)
            credit = max(QUEUED_WORK_NS // cost_ns, slow, CREDIT_FIRST)
        self.credit = min(credit * self.threads, self.held_max)
