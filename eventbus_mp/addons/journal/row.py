"""An event to and from the row of a journal. Pure: nothing of the data is decoded, and no time is asked for.

A row has what was on the bus, byte for byte: the data as msgpack, and beside it the memory of arrays. So a type need
not be importable to be stored, and what is published again is the same event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from eventbus_mp import DecodeError, EncodedData, EncodeError, Event, UsageError

__all__ = ["INTEGERS", "KEPT", "TIME_UNITS_NS", "Entry", "RefusedRow", "Row", "event_of", "row_of"]

TIME_UNITS_NS = {"second": 1_000_000_000, "millisecond": 1_000_000, "microsecond": 1_000, "nanosecond": 1}
"""Nanoseconds in each `BusConfig.time_unit`."""
INTEGERS = range(-(1 << 63), 1 << 63)
"""What an integer column holds."""
PAYLOAD_BYTES_MAX = 1_000_000_000 - (64 << 10)
"""SQLite takes 1,000,000,000 bytes for a whole row, PostgreSQL a little more for a value."""
ALIGNMENT = 64
"""The data of an event counts on each buffer to begin at a multiple of this."""
new_tuple = tuple.__new__
KEPT: Any = object()
"""Stands for what an event has in its row."""


class Row(NamedTuple):
    """An event as a store has it; the fields are the store's columns, in this order."""

    topic: str
    id: str | int
    """7 and "7" are two ids."""
    transaction_id: str | int | None
    initialized_at: int | None
    """As it was given, in the bus's `time_unit`; so are `occurred_at` and `ttl`."""
    occurred_at: int | None
    source: str | None
    ttl: int | None
    headers: str | None
    """A JSON object of texts."""
    data: bytes | memoryview
    """Msgpack."""
    buffers: bytes | memoryview | None
    """The memory beside the data, in one piece; None: there is none."""
    format: int
    """Of data and buffers: `EncodedData.format`."""
    recorded_ns: int
    """When the journal took it, in nanoseconds since the epoch. It never falls from one position to the next."""
    expires_ns: int | None
    """When its own ttl ends, in nanoseconds since the epoch; None: it has none."""


class Entry(NamedTuple):
    """A row at its place in a store."""

    position: int
    """Rises in the order in which events were stored. There are gaps, which mean nothing."""
    row: Row


class RefusedRow(ValueError):
    """An event that no store can take; its text is the reason."""


def row_of(event: Event, recorded_ns: int, unit_ns: int) -> Row:
    """The row of an event, whose data is not decoded.

    Args:
        event: A fetched one; its data is then a view, which keeps the event's memory in use. Or one that was made here.
        recorded_ns: The time of now.
        unit_ns: Nanoseconds in the bus's `time_unit`.

    Raises:
        RefusedRow: A field has a value that no column holds, or the event cannot be read.
    """
    # hot path: once an event, 1.5 us.
    try:
        id = event.id
        data, buffers, format = event.encoded
        transaction_id, source = event.transaction_id, event.source
        initialized_at, occurred_at, ttl = event.initialized_at, event.occurred_at, event.ttl
        headers = event.headers
    except (DecodeError, EncodeError) as cause:
        raise RefusedRow(str(cause)) from cause
    joined = None if not buffers else buffers[0] if len(buffers) == 1 else _joined(buffers)
    expires_ns = None
    if transaction_id is not None or source is not None or initialized_at is not None or occurred_at is not None:
        if transaction_id is not None:
            _check_id("transaction_id", transaction_id)
        if source is not None:
            _check_text("source", source)
        if initialized_at is not None:
            _check_integer("initialized_at", initialized_at)
        if occurred_at is not None:
            _check_integer("occurred_at", occurred_at)
        if ttl is not None:
            _check_integer("ttl", ttl)
        if ttl is not None and occurred_at is not None:
            expires_ns = max(INTEGERS[0], min((occurred_at + ttl) * unit_ns, INTEGERS[-1]))
    nbytes = len(data) + (len(joined) if joined is not None else 0)
    if nbytes > PAYLOAD_BYTES_MAX:
        raise RefusedRow(f"a payload of {nbytes:,} bytes; a store takes {PAYLOAD_BYTES_MAX:,}")
    fields = (
        event.topic,
        id,
        transaction_id,
        initialized_at,
        occurred_at,
        source,
        ttl,
        json.dumps(dict(headers)) if headers is not None else None,
        data,
        joined,
        format,
        recorded_ns,
        expires_ns,
    )
    return new_tuple(Row, fields)  # A third of the time of calling the class.


def event_of(row: Row, *, headers: Mapping[str, str] | None = KEPT) -> Event:
    """The event of a row, to be published again or looked at; its data is decoded when it is first used.

    Args:
        row: The row.
        headers: Other headers than those of the row.

    Raises:
        UsageError: The data has another format than that of this version, or a field has a wrong value.
    """
    # hot path: once a replayed event.
    topic, id, transaction_id, initialized_at, occurred_at, source, ttl, kept, data, joined, format, _, _ = row
    if headers is KEPT:
        headers = _headers_of(kept) if kept is not None else None
    return Event.from_encoded(
        id,
        topic,
        new_tuple(EncodedData, (data, () if joined is None else (memoryview(joined),), format)),
        transaction_id=transaction_id,
        initialized_at=initialized_at,
        occurred_at=occurred_at,
        source=source,
        ttl=ttl,
        headers=headers,
    )


def _headers_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as cause:  # Written by hand: the last one is a tower of brackets.
        raise UsageError(f"headers={text!r:.80} are not JSON: {cause}") from cause


def _joined(buffers: tuple[memoryview, ...]) -> bytes:
    pieces = (bytes(buffer) for buffer in buffers)
    return b"".join(piece + bytes(-len(piece) % ALIGNMENT) for piece in pieces)


def _check_id(name: str, value: Any) -> None:
    if type(value) is int:
        _check_integer(name, value)
    else:
        _check_text(name, value)


def _check_text(name: str, value: Any) -> None:
    if type(value) is not str:
        raise RefusedRow(f"{name}={value!r:.80} is a {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as cause:
            raise RefusedRow(f"{name}={value!r:.80} is not valid unicode text") from cause


def _check_integer(name: str, value: Any) -> None:
    if type(value) is not int:
        raise RefusedRow(f"{name}={value!r:.80} is a {type(value).__name__}")
    if value not in INTEGERS:
        raise RefusedRow(f"{name}={value!r:.80} has more than 64 bits")
