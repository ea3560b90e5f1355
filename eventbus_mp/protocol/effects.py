"""Effects: what the core tells the manager to do, in the imperative and in order.

An effect never blocks and returns no value; what it causes comes back as a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "CloseLink",
    "CreateSegment",
    "Deliver",
    "Effect",
    "FreePages",
    "GrantSpan",
    "NameSkip",
    "Refuse",
    "RemoveSegment",
    "Reply",
    "Stop",
    "TellTopicStale",
    "Warn",
    "WarnOfLease",
]


@dataclass(slots=True)
class Deliver:
    """Send these shadows to the link that hosts the subscriber."""

    link: int
    subscriber: int
    attempt: int
    packed: bytes
    """Their packed records."""


@dataclass(slots=True)
class Reply:
    link: int
    request: int
    value: Any


@dataclass(slots=True)
class Refuse:
    """Answer with an error: `error` is the name of a class in errors.py."""

    link: int
    request: int
    error: str
    text: str


@dataclass(slots=True)
class TellTopicStale:
    """The link notified a topic that is gone (`dropped` events), or that nobody subscribes to any more."""

    link: int
    topic: int
    dropped: int


@dataclass(slots=True)
class GrantSpan:
    """Hand a span to its writer. Segment 0 says no: there is none to lease ahead now, or (`backed`) there never is."""

    link: int
    segment: int
    offset: int
    length: int
    backed: bool


@dataclass(slots=True)
class CreateSegment:
    segment: int
    length: int


@dataclass(slots=True)
class RemoveSegment:
    segment: int


@dataclass(slots=True)
class FreePages:
    """Give the kernel back the memory of a range that no span is in."""

    segment: int
    offset: int
    length: int


@dataclass(slots=True)
class CloseLink:
    """The link broke the protocol; `LinkLost` follows from it."""

    link: int
    reason: str


@dataclass(slots=True)
class Warn:
    """A line for the manager's log."""

    text: str


@dataclass(slots=True)
class WarnOfLease:
    """A process has kept a view of this event for very long: a line for the manager's log, with the event's id."""

    pid: int
    topic: str
    segment: int
    offset: int
    length: int
    sequence: int
    age_s: float


@dataclass(slots=True)
class NameSkip:
    """The bus skipped a delivery itself: read the event's id, which the core does not know, and send `SkipNamed`."""

    subscriber: int
    name: str
    topic: str
    packed_record: bytes
    """The event's packed record."""
    reason: str
    is_given_up: bool
    """A line for the manager's log, too."""


@dataclass(slots=True)
class Stop:
    """The last process is gone, or somebody asked: leave, and leave nothing behind."""


Effect = (
    Deliver
    | Reply
    | Refuse
    | TellTopicStale
    | GrantSpan
    | CreateSegment
    | RemoveSegment
    | FreePages
    | CloseLink
    | Warn
    | WarnOfLease
    | NameSkip
    | Stop
)
