"""Requests: what a process asks of the manager or gives notice of, as frames.

To add one, write its class here and append it to `REQUESTS`, whose order is on the wire; write its handler in
`core/requests/` and add that to the table there; raise `runtime.handshake.VERSION`.
tests/protocol/test_wire_version.py says so if something is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import GenericAlias
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
    "Notice",
    "RegisterTopic",
    "RegisterTopics",
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
    "WireType",
    "fits",
]


WireType = type | tuple[type, ...] | GenericAlias
"""The type of a field that travels: a type, one of several, or `list[T]`, of which each element is checked."""


def fits(value: object, expected: WireType) -> bool:
    """Whether a value is of the type that a field must have."""
    if isinstance(expected, GenericAlias):
        (element,) = expected.__args__
        return isinstance(value, list) and all(isinstance(item, element) for item in value)
    return isinstance(value, expected)


@dataclass(slots=True)
class Request:
    """Something that a process asks, and that is answered once: with a reply, or with an error by `Refuse`.

    `link` and `request` are filled in by the receiving side; the other fields travel.
    """

    link: int
    request: int
    WIRE: ClassVar[tuple[WireType, ...]] = ()
    """The types of the fields that travel; the decoder refuses anything else."""
    ANSWERED: ClassVar[bool] = True
    """Whether there is ever an answer; if not, nobody must wait for one."""


@dataclass(slots=True)
class Notice(Request):
    """Something that a process says, and that is never answered, whatever comes of it."""

    ANSWERED: ClassVar[bool] = False


@dataclass(slots=True)
class RegisterTopic(Request):
    """Have a topic of this name -> whether it is new"""

    name: str
    WIRE = (str,)


@dataclass(slots=True)
class RegisterTopics(Request):
    """Have topics of all these names or, if one of them cannot name a topic, of none -> the names that are new"""

    names: list[str]
    WIRE = (list[str],)


@dataclass(slots=True)
class UnregisterTopic(Request):
    """Forget the topic; its events that wait are skipped -> whether it was there"""

    name: str
    WIRE = (str,)


@dataclass(slots=True)
class ListTopics(Request):
    """-> the names of all topics, sorted"""


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
    """Host a subscriber in this process, with its patterns replaced -> subscriber number"""

    name: str
    config: bytes
    patterns: list[str]
    credit: int
    """How many unsettled shadows it may have; 0: as many as make some milliseconds of work
    (`core.entities.Endpoint`)."""
    broadcast: bool
    WIRE = (str, bytes, list, int, bool)


@dataclass(slots=True)
class Unsubscribe(Request):
    """Take the subscriber away from every process -> whether it was there"""

    name: str
    config: bytes
    WIRE = (str, bytes)


@dataclass(slots=True)
class StopHosting(Request):
    """This process no longer serves the subscriber, and what it holds comes back -> whether it hosted it"""

    subscriber: int
    WIRE = (int,)


@dataclass(slots=True)
class ListSubscribers(Request):
    """-> [{name, config, patterns, pids}] of the subscribers that get the topic's events, or (None) of all"""

    topic: str | None
    WIRE = ((str, type(None)),)


@dataclass(slots=True)
class MarkEvent(Request):
    """Settle a delivery that this process need not hold -> None"""

    topic: int
    sequence: int
    name: str
    config: bytes
    outcome: int
    WIRE = (int, int, str, bytes, int)


@dataclass(slots=True)
class ExplainSkip(Notice):
    """Why this process will skip, or has skipped, a delivery."""

    subscriber: int
    event_id: str
    reason: str
    WIRE = (int, str, str)


@dataclass(slots=True)
class WatchEvent(Request):
    """-> watcher, {subscribers, completers, skippers: [[name, config]]}, or None if the event is settled"""

    topic: int
    sequence: int
    WIRE = (int, int)


@dataclass(slots=True)
class ListEvents(Request):
    """Every unsettled event of a topic, the oldest first -> [{record, watcher}] or, without watchers, the joined
    records"""

    topic: str
    watchers: bool
    WIRE = (str, bool)


@dataclass(slots=True)
class LeaseEvent(Request):
    """Keep an unsettled event's payload readable for this process -> whether it is there"""

    topic: int
    offset: int
    length: int
    sequence: int
    WIRE = (int, int, int, int)


@dataclass(slots=True)
class GetStatistics(Request):
    """-> a dictionary with the fields of `statistics.BusStatistics`; `subscribers` are dictionaries with the fields of
    `SubscriberStatistics`"""


@dataclass(slots=True)
class Drain(Request):
    """Answered when no topic that the pattern matches has an unsettled event -> None"""

    pattern: str
    WIRE = (str,)


@dataclass(slots=True)
class CancelWait(Notice):
    """Forget an earlier `Drain` or awaited event of this link, by its request number."""

    waiting: int
    WIRE = (int,)


@dataclass(slots=True)
class GetHistory(Request):
    """-> the remembered lines about one event, oldest first"""

    sequence: int
    WIRE = (int,)


@dataclass(slots=True)
class ReportState(Notice):
    """What has arrived here from a manager that died; what has not is sent again."""

    manager: int
    """The pid of the manager that asked: it may be dead by now, and its successor asks again."""
    held: list[list[Any]]
    """[subscriber, [first sequence, count, first sequence, count, ...]] of what is not yet reported as settled."""
    spans: list[list[int]]
    """[segment, offset] of the spans that this process may still write."""
    WIRE = (int, list, list)


@dataclass(slots=True)
class ShutDown(Request):
    """Stop the manager for everybody -> None, just before it goes."""


@dataclass(slots=True)
class Goodbye(Notice):
    """This process leaves in good order; its end of file is not a crash."""


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
    RegisterTopics,
)
"""Their order is their number on the wire: append only."""
