"""Client events: what the manager sends to a process, decoded."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ClientEvent", "Delivered", "ManagerChanged", "Replied", "SpanGranted", "TopicStale"]


class Delivered(NamedTuple):
    """Shadows for a subscriber that this process hosts."""

    subscriber: int
    attempt: int
    packed: bytes
    """Whole records, one for each shadow."""


class Replied(NamedTuple):
    """The answer to a request, as msgpack; of one that was refused, [name of the error's class, text]."""

    request: int
    refused: bool
    body: bytes


class SpanGranted(NamedTuple):
    """A span to write into. Segment 0 says no: there is none to have ahead now, or (`backed`) there never is."""

    segment: int
    offset: int
    length: int
    backed: bool


class TopicStale(NamedTuple):
    """What this process knows of a topic is out of date; `dropped` events found nobody."""

    topic: int
    dropped: int


class ManagerChanged(NamedTuple):
    """Another manager, of this pid, goes on: report to it what has arrived from the one before."""

    pid: int


ClientEvent = Delivered | Replied | SpanGranted | TopicStale | ManagerChanged
