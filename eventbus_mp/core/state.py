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
from eventbus_mp.core.allocator.spans import SpanTable
from eventbus_mp.core.batches import BatchTable
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_log import EventLog
from eventbus_mp.core.expiry import Expiry
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.registry import Registry
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol.effects import Effect

__all__ = ["BusState", "DrainWaiter", "SpanRequest", "Step", "check_waits"]

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
        self.batches = BatchTable()
        self.spans = SpanTable(config.memory_bytes_max)
        self.links: dict[int, LinkState] = {}
        self.event_log = EventLog()
        self.expiry = Expiry()
        self.awaited: dict[int, int] = {}
        """sequence -> link that waits for the final watcher; the sequence is also the number of its request."""
        self.drains: list[DrainWaiter] = []
        self.span_requests: deque[SpanRequest] = deque()
        """First come, first served."""
        self.orphans: dict[SubscriberState, int] = {}
        """Subscribers that no process hosts -> when they are given up."""
        self.idle_deadline_ns: int | None = now_ns + int(max(config.manager_idle_s, config.connect_timeout_s) * 1e9)
        """When to leave because nobody is connected; the first process gets the time that connecting may take."""
        self.lease_check_ns: int | None = None
        """When to look for leases that are too old; None: there is none to look at."""
        self.lease_warning_ns = int(config.lease_warning_s * 1e9)
        self.is_stopping = False
        self.events_notified = 0
        self.events_dropped = 0

        # What is left to do at the end of the message.
        self.dirty: dict[SubscriberState, None] = {}
        """Subscribers that may have something to dispatch."""
        self.memory_freed = False
        self.topic_emptied = False

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


def check_waits(count: int, what: str) -> None:
    """Refuse to let a process wait for one thing more.

    Raises:
        ProtocolError: It waits for `count` of them, which is as many as it may.
    """
    if count >= WAITS_MAX:
        raise ProtocolError(f"it waits for {count} {what} at once")
