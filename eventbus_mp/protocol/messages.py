"""Messages: everything that enters the core.

A message says what happened, in the past tense, or is a request. Most come from processes (protocol/decoders.py makes
them of bytes), some from the manager itself. On the data path there is one object for each batch, not for each event:
it carries the events as packed records, which the core passes on without looking into them, and beside them their
fields, as one list for each field.
"""

from __future__ import annotations

from enum import IntEnum

from eventbus_mp.ids import EventId
from eventbus_mp.protocol.requests import Request
from eventbus_mp.protocol.struct_types import Struct

__all__ = [
    "DeliveriesSettled",
    "DeliveriesTaken",
    "EndAsked",
    "EventsNotified",
    "LinkLost",
    "LinkOpened",
    "ManagerReplaced",
    "Message",
    "Outcome",
    "SkipNamed",
    "SpanLeased",
    "SpanReleased",
    "SpanSealed",
    "SpanWanted",
    "TimePassed",
]


Record = tuple[int, int, int, int, int, int, int, int]
"""kind, topic, segment, offset, length, reserved, deadline_ns, sequence: as in protocol/records.py."""


class Outcome(IntEnum):
    """How a process disposed of a delivery."""

    COMPLETED = 1
    SKIPPED = 2
    RETURNED = 3
    """Handed back untouched (an orderly stop): no attempt is counted."""
    FAILED = 4
    """Skipped because the listener raised; the dead letter topic gets the event."""
    RETRIED = 5
    """Handed back to be tried again, at once or later; an attempt is counted."""


# --- messages: the data path -------------------------------------------------------------------------------------


class EventsNotified(Struct):
    """A producer wrote these events into its spans. Their sequence numbers follow each other, from `first` on.

    The lists have one number for each event.
    """

    link: int
    first: int
    packed: bytes
    topics: list[int]
    segments: list[int]
    offsets: list[int]
    lengths: list[int]
    deadlines: dict[int, int]
    """Index of an event with a ttl -> when that is over, in nanoseconds of the monotonic clock."""
    awaited: int
    """Mask of the events whose producer waits for the final watcher."""


class DeliveriesSettled(Struct):
    """A process disposed of deliveries of one subscriber, all of them in the same way."""

    link: int
    subscriber: int
    outcome: int
    ranges: list[tuple[int, int]]
    """(first sequence, how many sequences that follow each other, the first included)"""
    cost_ns: int = 0
    """How long one of them took in its process; 0: not known."""
    reason: int = 0
    """Of a skip: see reasons.py."""
    delay_ns: int = 0
    """Of `RETRIED`: how long to wait before one of them is sent again."""


class DeliveriesTaken(Struct):
    """A process has taken deliveries of one subscriber, and settles them later: they no longer use up its credit."""

    link: int
    subscriber: int
    ranges: list[tuple[int, int]]
    """As of `DeliveriesSettled`."""


class SpanWanted(Struct):
    """A producer needs a span of `length` bytes; `urgency` is one of the `SPAN_*` values below."""

    link: int
    length: int
    urgency: int
    subscriber: int = 0
    """Whose handler publishes; 0: none."""
    topic: int = 0
    """To which topic it does."""


SPAN_AHEAD, SPAN_NEEDED, SPAN_RESERVE, SPAN_CANCELLED = range(4)
"""To have it later; waited for; waited for inside a listener, which may use the reserve; no longer waited for."""


class SpanSealed(Struct):
    """A producer appends no more to the span that holds `offset`."""

    link: int
    segment: int
    offset: int


class SpanLeased(Struct):
    """A process keeps a view into an event."""

    link: int
    topic: int
    segment: int
    offset: int
    length: int
    sequence: int


class SpanReleased(Struct):
    """The view of an earlier `SpanLeased`, or `LeaseEvent`, is gone."""

    link: int
    sequence: int


# --- messages: processes and time --------------------------------------------------------------------------------


class LinkOpened(Struct):
    """A process connected."""

    link: int
    pid: int


class LinkLost(Struct):
    """A process closed its link without a goodbye (`crashed`), or was cut off."""

    link: int
    crashed: bool


class TimePassed(Struct):
    """Nothing happened but time: the core does what is due."""


class EndAsked(Struct):
    """The manager got a signal that asks it to end, as a service does that is stopped. Repeated, it changes nothing."""


class ManagerReplaced(Struct):
    """Another manager goes on with this core. What the one before had sent may not have arrived (see `ReportState`)."""

    pid: int


class SkipNamed(Struct):
    """The id of an event that the bus skipped itself (effects.NameSkip)."""

    subscriber: int
    event_id: EventId
    reason: str


Message = (
    EventsNotified
    | DeliveriesSettled
    | DeliveriesTaken
    | SpanWanted
    | SpanSealed
    | SpanLeased
    | SpanReleased
    | LinkOpened
    | LinkLost
    | TimePassed
    | EndAsked
    | ManagerReplaced
    | SkipNamed
    | Request
)
