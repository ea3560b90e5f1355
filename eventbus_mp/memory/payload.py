"""Payloads: an event to and from the bytes of layout.py."""

from __future__ import annotations

from typing import NamedTuple

from eventbus_mp.errors import EncodeError, UsageError
from eventbus_mp.memory import codec
from eventbus_mp.memory.layout import ALIGNMENT, COMMIT_OFFSET, COMMITTED, HEADER, HEADER_BYTES, MAGIC
from eventbus_mp.model import ID_BYTES_MAX, Event

__all__ = ["EncodedEvent", "encode_event", "read_event", "read_id", "write_payload"]

new_tuple = tuple.__new__
"""Makes a NamedTuple of a tuple in a third of the time of calling its class."""
JOINED_BYTES_MAX = 1 << 16
"""Up to here one join and one copy beat a copy for each part."""

_PADDINGS = tuple(bytes(length) for length in range(ALIGNMENT))


class EncodedEvent(NamedTuple):
    """An event, ready to be written anywhere."""

    id: bytes
    envelope: bytes
    data: bytes
    length: int
    """Bytes in shared memory."""


def encode_event(event: Event) -> EncodedEvent:
    """The event's parts as bytes.

    Raises:
        EncodeError: The data, or a field of the envelope, cannot travel; the text names it.
        UsageError: The id is too long.
    """
    try:
        name = event.id.encode()
    except UnicodeEncodeError as cause:
        raise EncodeError(f"Event.id {event.id!r:.60} is not valid unicode text") from cause
    if len(name) > ID_BYTES_MAX:
        raise UsageError(f"Event.id {event.id!r:.60} has {len(name)} bytes of UTF-8; {ID_BYTES_MAX} are allowed")
    try:
        envelope, data = codec.encode_both(
            [event.transaction_id, event.initialized_at, event.occurred_at, event.source, event.ttl], event.data
        )
    except EncodeError as cause:
        raise EncodeError(f"event {event.id!r} of topic {event.topic!r}: {cause}") from cause
    length = (HEADER_BYTES + len(name) + len(envelope) + len(data) + ALIGNMENT - 1) & -ALIGNMENT
    return new_tuple(EncodedEvent, (name, envelope, data, length))


def write_payload(view: memoryview, offset: int, encoded: EncodedEvent, topic: int, sequence: int) -> None:
    """Write the payload at `offset`; its commit mark last."""
    name, envelope, data, length = encoded
    id_bytes, envelope_bytes, data_bytes = len(name), len(envelope), len(data)
    header = HEADER.pack(MAGIC, 0, sequence, length, topic, id_bytes, 0, envelope_bytes, data_bytes, 0)
    padding = _PADDINGS[length - HEADER_BYTES - id_bytes - envelope_bytes - data_bytes]
    if length <= JOINED_BYTES_MAX:
        view[offset : offset + length] = b"".join((header, name, envelope, data, padding))
    else:
        position = offset
        for part in (header, name, envelope, data, padding):
            view[position : position + len(part)] = part
            position += len(part)
    view[offset + COMMIT_OFFSET] = COMMITTED


def read_id(block: bytes | memoryview, sequence: int) -> str | None:
    """The id of the event in `block`, or None when another event, or none, is there."""
    if len(block) < HEADER_BYTES:
        return None
    magic, _, there, _, _, id_bytes, _, _, _, _ = HEADER.unpack_from(block)
    if magic != MAGIC or there != sequence:
        return None
    return str(block[HEADER_BYTES : HEADER_BYTES + id_bytes], "utf-8")


def read_event(block: bytes | memoryview, sequence: int, topic: str) -> Event | None:
    """The event in `block`, its data not yet decoded; None when another event, or none, is there."""
    if len(block) < HEADER_BYTES:
        return None
    magic, _, there, _, _, id_bytes, _, envelope_bytes, data_bytes, _ = HEADER.unpack_from(block)
    envelope_at = HEADER_BYTES + id_bytes
    data_at = envelope_at + envelope_bytes
    if magic != MAGIC or there != sequence or data_at + data_bytes > len(block):
        return None
    name = str(block[HEADER_BYTES:envelope_at], "utf-8")
    return Event._fetched(name, topic, block[envelope_at:data_at], block[data_at : data_at + data_bytes], codec.decode)
