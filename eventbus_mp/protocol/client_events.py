"""What the manager sends to a process, decoded."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ClientEvent", "Delivered", "ManagerChanged", "Replied", "SpanGranted", "TopicStale"]


class Delivered(NamedTuple):
    subscriber: int
    attempt: int
    packed: bytes
    """Whole records, one a shadow."""


class Replied(NamedTuple):
    request: int
    refused: bool
    body: bytes


class SpanGranted(NamedTuple):
    segment: int
    offset: int
    length: int
    backed: bool


class TopicStale(NamedTuple):
    topic: int
    dropped: int


class ManagerChanged(NamedTuple):
    pid: int


ClientEvent = Delivered | Replied | SpanGranted | TopicStale | ManagerChanged
