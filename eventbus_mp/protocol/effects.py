"""Effects: what the core tells the manager to do, in the imperative and in order.

An effect never blocks and returns no value; what it causes comes back as a message. A class here says what there is to
do; the method of the executor that names it does it.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

from eventbus_mp.protocol.client_events import RecordEvent
from eventbus_mp.protocol.struct_types import Struct


class Replay(enum.Enum):
    """What happens to an effect while a new manager repeats the messages of the one before it.

    The manager that died has carried out most of these effects, but nobody knows whether it came to the last ones. So
    each effect class says what is right in both cases. `manager/executor.py` acts on it.
    """

    AGAIN = "again"
    """Carry it out: the second time either changes nothing, or changes only what a manager has for itself."""
    IF_MISSING = "if missing"
    """Carry it out, and take it as done if its result is already there."""
    NEVER = "never"
    """Pass it over: a second time does harm, and leaving it undone does not."""


class Effect(Struct):
    """What the executor has a method for (manager/executor.py)."""

    REPLAY: ClassVar[Replay]
    """What a new manager does with it; each class says so itself, and why."""


class Deliver(Effect):
    """Send these shadows to the link that hosts the subscriber."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """The frames are dropped when the new manager has caught up, and each process reports what has reached it."""

    link: int
    subscriber: int
    attempt: int
    packed: bytes
    """Their packed records."""


class Tell(Effect):
    """Send the link an event that is one record."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """The frame is dropped when the new manager has caught up. So what was lost with it must come up again by itself:
    who has too much is looked for anew, and the next event of a stale topic is answered anew."""

    link: int
    event: RecordEvent


class Reply(Effect):
    """Answer a request."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """Nobody asks twice, so replies are kept and sent; the process ignores one that it has already."""

    link: int
    request: int
    value: Any


class ReplyWithFacts(Effect):
    """Answer a request with a dictionary, to which the manager adds under `facts` what it knows of itself."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """As a reply; the facts are those of the new manager then."""

    link: int
    request: int
    value: dict[str, Any]


class Refuse(Effect):
    """Answer a request with an error: `error` is the name of a class in errors.py."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """As a reply."""

    link: int
    request: int
    error: str
    text: str


class GrantSpan(Effect):
    """Hand a span to its writer. Segment 0 says no: there is none to lease ahead now, or (`backed`) there never is."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """The frame is dropped when the new manager has caught up, and each process reports which spans it writes."""

    link: int
    segment: int
    offset: int
    length: int
    backed: bool


class CreateSegment(Effect):
    """Make a segment of shared memory."""

    REPLAY: ClassVar[Replay] = Replay.IF_MISSING
    """Events may be in the one that is there. While a bus has one manager only, an existing name is an error."""

    segment: int
    length: int


class RemoveSegment(Effect):
    """Unlink a segment; processes that mapped it keep their mapping."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """Numbers of segments are used once, so a second time finds nothing to remove."""

    segment: int


class FreePages(Effect):
    """Give the kernel back the memory of a range that no span is in."""

    REPLAY: ClassVar[Replay] = Replay.NEVER
    """The range may belong to a span again that a producer has written to. Pages that stay cost memory only."""

    segment: int
    offset: int
    length: int


class CloseLink(Effect):
    """The link broke the protocol; `LinkLost` follows from it."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """Each manager has its own copies of a link's descriptors and closes those."""

    link: int
    reason: str


class Warn(Effect):
    """Write a line to the manager's log."""

    REPLAY: ClassVar[Replay] = Replay.NEVER
    """The managers of a bus share one log, and the line is in it."""

    text: str


class WarnOfLease(Effect):
    """Write to the manager's log, with the event's id, that a process has kept a view of this event for very long."""

    REPLAY: ClassVar[Replay] = Replay.NEVER
    """As a warning."""

    pid: int
    topic: str
    segment: int
    offset: int
    length: int
    sequence: int
    age_s: float


class NameSkip(Effect):
    """The bus skipped a delivery itself: read the event's id, which the core does not know, and send `SkipNamed`."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """The name belongs to the core's state. Its line in the log is a `Warn`, which is not repeated."""

    subscriber: int
    name: str
    topic: str
    packed_record: bytes
    """The event's packed record."""
    reason: str
    is_given_up: bool
    """Also write it to the manager's log."""


class WriteEvent(Effect):
    """Write an event of the bus's own to its place, which no other event ever has."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """The same bytes at the same place change nothing."""

    segment: int
    offset: int
    sequence: int
    event_id: str
    data: bytes
    """Msgpack."""


class Stop(Effect):
    """Leave, and leave nothing behind: the last process is gone, or a process asked for it."""

    REPLAY: ClassVar[Replay] = Replay.AGAIN
    """A manager that dies on its way out leaves the rest of it to the next one."""
