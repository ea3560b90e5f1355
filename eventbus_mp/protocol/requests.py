"""Requests: what a process asks of the manager, as frames; most are answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = [
    "CancelWait",
    "Drain",
    "ExplainSkip",
    "GetHistory",
    "GetStatistics",
    "Goodbye",
    "LeaseEvent",
    "ListEvents",
    "ListSubscribers",
    "ListTopics",
    "MarkEvent",
    "NameTopic",
    "RegisterTopic",
    "ReportState",
    "Request",
    "REQUESTS",
    "ResolveTopic",
    "ShutDown",
    "StopHosting",
    "Subscribe",
    "UnregisterTopic",
    "Unsubscribe",
    "WatchEvent",
]


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
