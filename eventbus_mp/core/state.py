"""The state of the bus, and the step that changes it.

`BusState` is all that the core knows between two messages. A `Step` is one message's way through the core: every
handler, and every function that a handler uses, gets it as its first argument, reads and changes `step.state`, reads
the time from `step.now_ns`, and asks for what has to be done outside by appending to `step.effects`. There is no other
way out.

Work that is due at the end of a message (a queue that grew, memory that came free, a topic that ran empty) is noted in
the state and done once, by `BusCore.handle`, however often the message caused it.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from eventbus_mp.config import BusConfig
from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.allocator.spilling import SpillingSpanTable
from eventbus_mp.core.batches import BatchTable
from eventbus_mp.core.changes import Changes
from eventbus_mp.core.delays import Delays
from eventbus_mp.core.directions import Directions
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.event_log import EventLog
from eventbus_mp.core.expiry import Expiry
from eventbus_mp.core.failures import Failure
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.receipt_boxes import ReceiptBoxes
from eventbus_mp.core.registry import Registry
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol.effects import Effect
from eventbus_mp.protocol.history_kinds import HistoryKind

__all__ = ["BusState", "DrainWaiter", "Letter", "RoomWaiter", "SpanRequest", "Step", "check_waits"]

WAITS_MAX = 1024
"""How many things of each kind one process may wait for at the same time; it waits for as many as it has threads."""


class SpanRequest(NamedTuple):
    """A producer that waits for memory."""

    link: int
    length: int
    reserve: bool
    """It is inside a listener: it may use the reserve, and comes first."""


class DrainWaiter(NamedTuple):
    """A process that waits until all events of the matching topics are settled."""

    link: int
    request: int
    pattern: re.Pattern[str]


class RoomWaiter(NamedTuple):
    """A producer that waits until the subscribers of a topic have room."""

    link: int
    request: int
    topic: str


class Letter(NamedTuple):
    """Why there is a dead letter: what failed, and for whom."""

    number: int
    """Counts up, so that a list can go on where it was."""
    topic: Topic
    """The event's own."""
    name: str
    config: bytes
    host: str
    """Of the subscriber that failed, which may be gone."""
    reason: str
    attempts: int
    failure: Failure | None
    receivers: frozenset[int]
    """The numbers of all subscribers that got the event itself: they do not get it as a dead letter."""


class BusState:
    """Everything that the core knows between two messages.

    Args:
        config: The bus-wide settings; `memory_bytes_max` must be a number here.
        now_ns: The monotonic time that later messages go on from.
    """

    def __init__(self, config: BusConfig, now_ns: int) -> None:
        assert config.memory_bytes_max is not None
        self.config = config
        self.registry = Registry()
        self.changes = Changes(self.registry)
        self.batches = BatchTable()
        self.spans = SpillingSpanTable(config.memory_bytes_max, config.spill_bytes)
        self.links: dict[int, LinkState] = {}
        self.directions = Directions()
        self.event_log = EventLog(config.event_log_bytes_max)
        self.expiry = Expiry()
        self.delays = Delays()
        self.letter_serial = 0
        """The number of the newest dead letter."""
        self.letters: dict[EventBatch, Letter] = {}
        """Why there are these dead letters, and these events that were sent again because of one; the oldest first. The
        details of a failure live as long as the event is unsettled there."""
        self.awaited: dict[int, int] = {}
        """sequence -> link that waits for the final watcher; the sequence is also the number of its request."""
        self.drains: list[DrainWaiter] = []
        self.boxes = ReceiptBoxes()
        self.room_waiters: list[RoomWaiter] = []
        self.room_version = 0  # The `Registry.version` for which they were looked at last.
        self.span_requests: deque[SpanRequest] = deque()
        """First come, first served."""
        self.orphans: dict[SubscriberState, int] = {}
        """Subscribers that no process hosts -> when they are given up."""
        self.held: dict[SubscriberState, None] = {}
        """Subscribers that get nothing until the later stages have come further (backpressure.py)."""
        self.downstream: dict[SubscriberState, tuple[int, tuple[Topic, ...]]] = {}
        """Which topics come of a subscriber's work, and for which `Registry.version` this was found."""
        self.recall_checks: dict[SubscriberState, int] = {}
        """Subscribers that several processes share -> when to look whether one of them has too much."""
        self.idle_deadline_ns: int | None = now_ns + int(max(config.manager_idle_s, config.connect_timeout_s) * 1e9)
        """When to leave because nobody is connected; the first process gets the time that connecting may take."""
        self.lease_check_ns: int | None = None
        """When to look for leases that are too old; None: there is none to look at."""
        self.lease_warning_ns = int(config.lease_warning_s * 1e9)
        self.is_end_asked = False
        """The manager was asked to end, and does so when nobody needs it."""
        self.is_stopping = False
        self.events_notified = 0
        self.events_dropped = 0
        self.started_ns = now_ns
        self.lifecycle_serial = 0
        """How many events about the bus itself there were (lifecycle.py)."""
        self.lifecycle_span: Span | None = None
        """Where the next one is written."""
        self.lifecycle_waiting: deque[bytes] = deque()
        """The data of those that wait for memory."""
        self.unannounced: set[int] = set()
        """Links of processes that have not asked for anything yet; only while there is a topic to say it on."""
        self.is_takeover_unannounced = False
        self.takeovers = 0
        # What is left to do at the end of the message.
        self.dirty: dict[SubscriberState, None] = {}
        """Subscribers that may have something to dispatch."""
        self.memory_freed = False
        self.topic_emptied = False
        self.room_freed = False  # A subscriber with a bound has settled something.

    def link(self, number: int) -> LinkState:
        """The link of this number.

        Raises:
            ProtocolError: It is closed. What one read brought may go on after the message that ended the link.
        """
        try:
            return self.links[number]
        except KeyError:
            raise ProtocolError("it is cut off already") from None


class Step:
    """One message's way through the core: the state, the time, and what is to be done outside."""

    __slots__ = ("effects", "now_ns", "state")

    def __init__(self, state: BusState, now_ns: int, effects: list[Effect]) -> None:
        self.state = state
        self.now_ns = now_ns
        self.effects = effects
        """To be carried out in this order, after the message."""

    def log(
        self,
        kind: HistoryKind,
        batch: EventBatch,
        mask: int,
        subscriber: SubscriberState | None = None,
        detail: str | int | None = None,
        pid: int = 0,
    ) -> None:
        """Write down what happened to events of a batch. Hot paths append to the log themselves."""
        key = subscriber.key if subscriber is not None else None
        self.state.event_log.append((self.now_ns, kind, batch.first, mask, batch.topics, pid, key, detail))


def check_waits(count: int, what: str) -> None:
    """Refuse to let a process wait for one thing more.

    Raises:
        ProtocolError: It waits for `count` of them, which is as many as it may.
    """
    if count >= WAITS_MAX:
        raise ProtocolError(f"it waits for {count} {what} at once")
