"""Everything that crosses a process boundary or enters the core.

Messages say what happened, in the past tense, or ask for something. On the data
path there is one object per batch, not per event: a batch carries its events as packed records ("raws", opaque to the
core) beside their fields, one list a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from eventbus_mp.protocol.requests import Request

__all__ = ["Message", "Outcome"]


Record = tuple[int, int, int, int, int, int, int, int]
"""kind, topic, segment, offset, length, reserved, deadline_ns, sequence: as in protocol/records.py."""


class Outcome(IntEnum):
    """How a process disposed of a delivery."""

    COMPLETED = 1
    SKIPPED = 2
    RETURNED = 3
    """Handed back untouched (an orderly stop): no attempt is counted."""
    FAILED = 4
    """Skipped because the listener raised; goes to the dead letter topic too."""


# --- messages: the data path -------------------------------------------------------------------------------------


@dataclass(slots=True)
class EventsNotified:
    """A producer wrote these events into its spans. Their sequence numbers follow each other, from `first` on.

    The lists have one number an event.
    """

    link: int
    first: int
    packed: bytes
    topics: list[int]
    segments: list[int]
    offsets: list[int]
    lengths: list[int]
    deadlines: dict[int, int]
    """Index of an event with a ttl -> when it is over, in nanoseconds of the monotonic clock."""
    awaited: int
    """Mask of the events whose producer waits for the final watcher."""


@dataclass(slots=True)
class DeliveriesSettled:
    """A process disposed of deliveries of one subscriber, all in the same way."""

    link: int
    subscriber: int
    outcome: int
    ranges: list[tuple[int, int]]
    """(first sequence, how many that follow each other, itself included)"""
    cost_ns: int = 0
    """What one of them took its process; 0: it does not know."""


@dataclass(slots=True)
class SpanWanted:
    """A producer needs a span of `length` bytes; `urgency` is one of the `SPAN_*` values below."""

    link: int
    length: int
    urgency: int


SPAN_AHEAD, SPAN_NEEDED, SPAN_RESERVE, SPAN_CANCELLED = range(4)
"""For later; waited for; waited for inside a listener (may use the reserve); no longer waited for."""


@dataclass(slots=True)
class SpanSealed:
    """A producer appends no more to the span that holds `offset`."""

    link: int
    segment: int
    offset: int


@dataclass(slots=True)
class SpanLeased:
    """A process keeps a view into an event."""

    link: int
    topic: int
    segment: int
    offset: int
    length: int
    sequence: int


@dataclass(slots=True)
class SpanReleased:
    """The view of an earlier `SpanLeased`, or `LeaseEvent`, is gone."""

    link: int
    sequence: int


# --- messages: processes and time --------------------------------------------------------------------------------


@dataclass(slots=True)
class LinkOpened:
    link: int
    pid: int


@dataclass(slots=True)
class LinkLost:
    """The process closed its link, or died; `crashed` tells which."""

    link: int
    crashed: bool


@dataclass(slots=True)
class TimePassed:
    """Nothing but time: the core does what is due."""


@dataclass(slots=True)
class ManagerReplaced:
    """Another manager goes on with this core: what the one before had sent may not have arrived (see `Compare`)."""

    pid: int


@dataclass(slots=True)
class SkipNamed:
    """The id of an event that the bus skipped itself (effects.NameSkip)."""

    subscriber: int
    event_id: str
    reason: str


# --- requests: messages that travel as frames, most of them answered ----------------------------------------------


Message = (
    EventsNotified
    | DeliveriesSettled
    | SpanWanted
    | SpanSealed
    | SpanLeased
    | SpanReleased
    | LinkOpened
    | LinkLost
    | TimePassed
    | ManagerReplaced
    | SkipNamed
    | Request
)
