"""Everything that crosses a process boundary or enters the core.

Messages say what happened, in the past tense, or ask for something. On the data
path there is one object per batch, not per event: a batch carries its events as packed records ("raws", opaque to the
core) beside their fields, one list a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

__all__ = ["REQUESTS", "Message", "Outcome", "Request"]

SEQUENCE_LINK_SHIFT = 40
"""A sequence number is `link << 40 | serial`: its producer makes it without asking, and it never repeats."""

CHUNK_BYTES = 256 * 1024
"""What segments are cut into; a span is some neighbouring blocks."""
SEGMENT_BYTES = 64 * 1024 * 1024
SHARED_SPAN_BYTES_MAX = SEGMENT_BYTES // 2
"""A larger event gets a segment of its own."""

RECORD_BYTES = 40
"""What a packed record has: wire/records.py has the picture."""
Record = tuple[int, int, int, int, int, int, int, int]
"""kind, topic, segment, offset, length, reserved, deadline_ns, sequence: as in wire/records.py."""


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


@dataclass(slots=True)
class Request:
    """`link` and `request` are filled in by the receiving side; the other fields travel."""

    link: int
    request: int
    WIRE: ClassVar[tuple[type | tuple[type, ...], ...]] = ()
    """The types of the fields that travel; the decoder refuses anything else."""


@dataclass(slots=True)
class RegisterTopic(Request):
    name: str
    WIRE = (str,)


@dataclass(slots=True)
class UnregisterTopic(Request):
    name: str
    WIRE = (str,)


@dataclass(slots=True)
class ListTopics(Request):
    pass


@dataclass(slots=True)
class ResolveTopic(Request):
    """What is the number of this topic, and is anybody subscribed? -> [number or 0, subscribed]"""

    name: str
    WIRE = (str,)


@dataclass(slots=True)
class NameTopic(Request):
    """What is the name of this topic number? -> name or None"""

    topic: int
    WIRE = (int,)


@dataclass(slots=True)
class Subscribe(Request):
    """Host a subscriber in this process, with its patterns replaced -> subscriber number."""

    name: str
    config: bytes
    patterns: list[str]
    credit: int
    """Shadows; 0: as many as make some milliseconds of work (core/dispatcher.py)."""
    broadcast: bool
    WIRE = (str, bytes, list, int, bool)


@dataclass(slots=True)
class Unsubscribe(Request):
    """Take the subscriber away from every process -> whether it was there."""

    name: str
    config: bytes
    WIRE = (str, bytes)


@dataclass(slots=True)
class StopHosting(Request):
    """This process no longer serves the subscriber; what it holds comes back -> whether it did."""

    subscriber: int
    WIRE = (int,)


@dataclass(slots=True)
class ListSubscribers(Request):
    """-> [[name, config, patterns, pids]], of one topic or (None) of all"""

    topic: str | None
    WIRE = ((str, type(None)),)


@dataclass(slots=True)
class MarkEvent(Request):
    """Settle a delivery that this process may not hold -> None."""

    topic: int
    sequence: int
    name: str
    config: bytes
    outcome: int
    WIRE = (int, int, str, bytes, int)


@dataclass(slots=True)
class ExplainSkip(Request):
    """Why this process will skip, or has skipped, a delivery; not answered."""

    subscriber: int
    event_id: str
    reason: str
    WIRE = (int, str, str)


@dataclass(slots=True)
class WatchEvent(Request):
    """-> watcher or None when settled"""

    topic: int
    sequence: int
    WIRE = (int, int)


@dataclass(slots=True)
class ListEvents(Request):
    """Every unsettled event of a topic, oldest first -> [[raw, watcher]] or, without watchers, joined raws"""

    topic: str
    watchers: bool
    WIRE = (str, bool)


@dataclass(slots=True)
class LeaseEvent(Request):
    """Keep an unsettled event's payload readable for this process -> whether it is there."""

    topic: int
    offset: int
    length: int
    sequence: int
    WIRE = (int, int, int, int)


@dataclass(slots=True)
class GetStatistics(Request):
    pass


@dataclass(slots=True)
class Drain(Request):
    """Answered when no topic that the pattern matches has an unsettled event -> None"""

    pattern: str
    WIRE = (str,)


@dataclass(slots=True)
class CancelWait(Request):
    """Forget an earlier `Drain` or awaited event of this link, by its request number; not answered."""

    waiting: int
    WIRE = (int,)


@dataclass(slots=True)
class GetHistory(Request):
    """-> the remembered lines about one event, oldest first"""

    sequence: int
    WIRE = (int,)


@dataclass(slots=True)
class ReportState(Request):
    """What has arrived here from a manager that died; what has not is sent again. Not answered."""

    manager: int
    """The pid of the one that asked: it may be dead by now, and its successor asks again."""
    held: list[list[Any]]
    """[subscriber, [first sequence, count, first sequence, count, ...]] of what is not told to be settled."""
    spans: list[list[int]]
    """[segment, offset] of the spans that this process may still write."""
    WIRE = (int, list, list)


@dataclass(slots=True)
class ShutDown(Request):
    """Stop the manager for everybody -> None, just before it goes."""


@dataclass(slots=True)
class Goodbye(Request):
    """This process leaves in good order; its end of file is not a crash. Not answered."""


REQUESTS: tuple[type[Request], ...] = (
    RegisterTopic,
    UnregisterTopic,
    ListTopics,
    ResolveTopic,
    NameTopic,
    Subscribe,
    Unsubscribe,
    StopHosting,
    ListSubscribers,
    MarkEvent,
    ExplainSkip,
    WatchEvent,
    ListEvents,
    LeaseEvent,
    GetStatistics,
    Drain,
    CancelWait,
    GetHistory,
    ShutDown,
    Goodbye,
    ReportState,
)
"""Their order is their number on the wire."""


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
