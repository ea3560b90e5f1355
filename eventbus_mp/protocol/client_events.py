"""Client events: what the manager sends to a process, decoded.

Deliveries and replies have bytes behind their record. Everything else is one record, and its class here is all that it
needs to travel: its number, and where in the record each of its fields is. The core sends it with `effects.Tell`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeVar

from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol.messages import Record
from eventbus_mp.protocol.records import (
    DELIVERED,
    KIND,
    LENGTH,
    OFFSET,
    RECORD,
    REFUSED,
    REPLIED,
    REPLY_PART,
    SEGMENT,
    TOPIC,
)
from eventbus_mp.protocol.struct_types import Struct


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


class RecordEvent(Struct):
    """A client event that is one record: its fields are numbers in it."""

    NUMBER: ClassVar[int]
    """What it is on the wire; see `one_record`."""
    PLACES: ClassVar[tuple[tuple[str, type[int], int], ...]]
    """Name and type of each field, and where it is in the record."""


ClientEvent = Delivered | Replied | RecordEvent

AnyRecordEvent = TypeVar("AnyRecordEvent", bound=RecordEvent)

RECORD_EVENTS: dict[int, type[RecordEvent]] = {}
"""All of them, by their kind."""
_TYPES: dict[str, type[int]] = {"int": int, "bool": bool}
"""What a field of these may be."""
_WITH_BYTES_BEHIND = (DELIVERED, REPLIED, REFUSED, REPLY_PART)


def one_record(kind: int, *places: int) -> Callable[[type[AnyRecordEvent]], type[AnyRecordEvent]]:
    """A decorator that gives an event its kind of record, and each of its fields, in their order, a place in it.

    For a new event: the next kind that is free, and any places. `DEADLINE_NS` and `SEQUENCE` have 64 bits, others 32.

    Raises:
        ValueError: The kind is used already, or there are not as many places as fields.
    """

    def register(event: type[AnyRecordEvent]) -> type[AnyRecordEvent]:
        if kind in RECORD_EVENTS or kind in _WITH_BYTES_BEHIND:
            raise ValueError(f"{event.__name__}: another kind has number {kind}; {max(RECORD_EVENTS) + 1} is free")
        event.NUMBER = kind
        fields = zip(event.FIELDS.items(), places, strict=True)
        event.PLACES = tuple((name, _TYPES[text], place) for (name, text), place in fields)
        RECORD_EVENTS[kind] = event
        return event

    return register


@one_record(20, SEGMENT, OFFSET, LENGTH, TOPIC)
class SpanGranted(RecordEvent):
    """A span to write into. Segment 0 says no: there is none to have ahead now, or (`backed`) there never is."""

    segment: int
    offset: int
    length: int
    backed: bool


@one_record(21, TOPIC, LENGTH)
class TopicStale(RecordEvent):
    """What this process knows of a topic is out of date, or its required subscribers are not all there any more;
    `dropped` events found nobody."""

    topic: int
    dropped: int


@one_record(23, LENGTH)
class ManagerChanged(RecordEvent):
    """Another manager, of this pid, goes on: report to it what has arrived from the one before (`ReportState`)."""

    pid: int


@one_record(24, SEGMENT, OFFSET)
class Recalled(RecordEvent):
    """Other processes have nothing to do: of what is pending for this subscriber, `keep` may stay."""

    subscriber: int
    keep: int


@one_record(25)
class BusEnded(RecordEvent):
    """The bus was shut down: the end of the link follows, and no process is to start the bus again by itself."""


def pack_client_event(event: RecordEvent) -> bytes:
    """The record that an event travels as."""
    numbers = [event.NUMBER, 0, 0, 0, 0, 0, 0, 0]
    for name, _, place in event.PLACES:
        numbers[place] = getattr(event, name)
    return RECORD.pack(*numbers)


def read_client_event(record: Record) -> RecordEvent:
    """The event that a record is.

    Raises:
        ProtocolError: There is none of this kind.
    """
    event = RECORD_EVENTS.get(record[KIND])
    if event is None:
        raise ProtocolError(
            f"the manager sent kind {record[KIND]}, which does not exist; are both sides the same version?"
        )
    return event(*[of_type(record[place]) for _, of_type, place in event.PLACES])
