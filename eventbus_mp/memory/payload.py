"""Payloads: an event to and from the bytes of layout.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from eventbus_mp.errors import EncodeError, UsageError
from eventbus_mp.memory import codec
from eventbus_mp.memory.buffers import holds_buffers, wrap_buffers
from eventbus_mp.memory.codec import Buffers, Encoder, idle_encoders
from eventbus_mp.memory.layout import ALIGNMENT, COMMIT_OFFSET, COMMITTED, HEADER, HEADER_BYTES, MAGIC
from eventbus_mp.model import ENVELOPE_FIELDS, ID_BYTES_MAX, Event

__all__ = [
    "EncodedEvent",
    "encode_event",
    "encode_loaned",
    "loaned_offset",
    "read_event",
    "read_id",
    "write_loaned",
    "write_payload",
]

new_tuple = tuple.__new__
"""Makes a NamedTuple of a tuple in a third of the time of calling its class."""
JOINED_BYTES_MAX = 1 << 16
"""Up to here one join and one copy beat a copy for each part."""

SMALL_BYTES_MAX = 256
"""Up to here no part of an event can be over its limit, and msgpack has one mark for all bytes: 0xC4."""
KEPT_BYTES_MAX = 1 << 20
"""A packer keeps the memory of its largest value; beyond this it is not used again."""

_pack_header, _unpack_header = HEADER.pack, HEADER.unpack_from
_PADDINGS = tuple(bytes(length) for length in range(ALIGNMENT))


class EncodedEvent(NamedTuple):
    """An event, ready to be written anywhere."""

    id: bytes
    envelope: bytes
    data: bytes
    buffers: Buffers
    length: int
    """Bytes in shared memory."""


def encode_event(event: Event) -> EncodedEvent:
    """The event's parts as bytes; its buffers are still the user's memory, and are copied when it is written.

    Raises:
        EncodeError: The data, or a field of the envelope, cannot travel; the text names it.
        UsageError: The id is too long.
    """
    try:
        encoder = idle_encoders.pop()
    except IndexError:
        encoder = Encoder()
    pack = encoder.pack
    try:
        name = event.id.encode()
        if (
            event.occurred_at is None
            and event.transaction_id is None
            and event.source is None
            and event.initialized_at is None
            and event.ttl is None
        ):
            envelope = b""
        else:
            envelope = pack([event.transaction_id, event.initialized_at, event.occurred_at, event.source, event.ttl])
        data = pack(event.data)
    except codec.ENCODE_FAILURES as cause:
        encoder.drop()
        return _encode_wrapped(event, cause)
    length = (HEADER_BYTES + len(name) + len(envelope) + len(data) + ALIGNMENT - 1) & -ALIGNMENT
    if length > SMALL_BYTES_MAX or 0xC4 in data or encoder.buffers:
        return _encode_more(event, encoder, name, envelope, data)
    idle_encoders.append(encoder)
    return new_tuple(EncodedEvent, (name, envelope, data, (), length))


def _encode_more(
    event: Event, encoder: Encoder, name: bytes, envelope: bytes, data: bytes, *, wrapped: bool = False
) -> EncodedEvent:
    """The rest of `encode_event` for an event that is not small, or has something beside its data, or may have."""
    # msgpack takes memoryviews and bytearrays for bytes: they can be there only where one of its marks for bytes is.
    if not wrapped and (0xC4 in data or 0xC5 in data or 0xC6 in data) and holds_buffers(event.data):
        encoder.drop()
        return _encode_wrapped(event, None)
    buffers = encoder.take_buffers() if encoder.buffers else ()
    if len(data) <= KEPT_BYTES_MAX:
        idle_encoders.append(encoder)
    else:
        encoder.drop()
    if len(name) > ID_BYTES_MAX:
        raise UsageError(f"Event.id {event.id!r:.60} has {len(name)} bytes of UTF-8; {ID_BYTES_MAX} are allowed")
    length = (HEADER_BYTES + len(name) + len(envelope) + len(data) + ALIGNMENT - 1) & -ALIGNMENT
    if buffers:
        codec.check_envelope(_envelope(event))
        length += sum((len(buffer) + ALIGNMENT - 1) & -ALIGNMENT for buffer in buffers)
    return new_tuple(EncodedEvent, (name, envelope, data, buffers, length))


def _encode_wrapped(event: Event, cause: Exception | None) -> EncodedEvent:
    """Encode an event with its memoryviews and bytearrays wrapped; `cause` is what went wrong without."""
    encoder = Encoder()
    try:
        name = event.id.encode()
        wrapped = wrap_buffers(event.data)
        if cause is not None and wrapped is event.data:
            raise cause
        envelope, data = encoder.pack(_envelope(event)), encoder.pack(wrapped)
    except codec.ENCODE_FAILURES as error:
        encoder.drop()
        raise _encode_error(event, error) from error
    return _encode_more(event, encoder, name, envelope, data, wrapped=True)


def _encode_error(event: Event, cause: Exception) -> EncodeError:
    if isinstance(cause, UnicodeEncodeError) and cause.object == event.id:
        return EncodeError(f"Event.id {event.id!r:.60} is not valid unicode text")
    text = codec.explain_event(_envelope(event), event.data, cause)
    return EncodeError(f"event {event.id!r} of topic {event.topic!r}: {text}")


def _envelope(event: Event) -> list[Any]:
    return [getattr(event, field) for field in ENVELOPE_FIELDS]


def encode_loaned(event: Event, raw_bytes: int) -> EncodedEvent:
    """An event whose data, a `LoanedBuffer`, is memory of `raw_bytes` that will be filled in place.

    Raises:
        EncodeError, UsageError: As `encode_event`.
    """
    encoded = encode_event(event)
    return encoded._replace(length=encoded.length + ((raw_bytes + ALIGNMENT - 1) & -ALIGNMENT))


def write_payload(view: memoryview, offset: int, encoded: EncodedEvent, topic: int, sequence: int) -> None:
    """Write the payload at `offset`; its commit mark last."""
    name, envelope, data, buffers, length = encoded
    id_bytes, envelope_bytes, data_bytes = len(name), len(envelope), len(data)
    if length <= JOINED_BYTES_MAX and not buffers:
        header = _pack_header(MAGIC, 0, sequence, length, topic, id_bytes, 0, envelope_bytes, data_bytes, 0)
        padding = _PADDINGS[length - HEADER_BYTES - id_bytes - envelope_bytes - data_bytes]
        view[offset : offset + length] = b"".join((header, name, envelope, data, padding))
    else:
        counts = envelope_bytes, data_bytes, len(buffers)
        header = _pack_header(MAGIC, 0, sequence, length, topic, id_bytes, 0, *counts)
        position = _write_parts(view, offset, (header, name, envelope, data))
        for buffer in buffers:
            position = _write_parts(view, position, (buffer,))
    view[offset + COMMIT_OFFSET] = COMMITTED


def write_loaned(view: memoryview, offset: int, encoded: EncodedEvent, topic: int, sequence: int) -> None:
    """Write all of a loaned event but its buffer, which is there, at `loaned_offset`; its commit mark last."""
    name, envelope, data, _, length = encoded
    header = _pack_header(MAGIC, 0, sequence, length, topic, len(name), 0, len(envelope), len(data), 1)
    _write_parts(view, offset, (header, name, envelope, data))
    view[offset + COMMIT_OFFSET] = COMMITTED


def loaned_offset(encoded: EncodedEvent) -> int:
    """Where the buffer of a loaned event begins, counted from its header."""
    head_bytes = HEADER_BYTES + len(encoded.id) + len(encoded.envelope) + len(encoded.data)
    return (head_bytes + ALIGNMENT - 1) & -ALIGNMENT


def _write_parts(view: memoryview, position: int, parts: Sequence[bytes | memoryview]) -> int:
    """Write the parts one after the other, and zeros up to the next multiple of the alignment: where that is."""
    start = position
    for part in parts:
        view[position : position + len(part)] = part
        position += len(part)
    end = start + ((position - start + ALIGNMENT - 1) & -ALIGNMENT)
    view[position:end] = _PADDINGS[end - position]
    return end


def read_id(block: bytes | memoryview, sequence: int) -> str | None:
    """The id of the event in `block`, or None when another event, or none, is there."""
    if len(block) < HEADER_BYTES:
        return None
    magic, _, there, _, _, id_bytes, _, _, _, _ = _unpack_header(block)
    if magic != MAGIC or there != sequence:
        return None
    try:
        return str(block[HEADER_BYTES : HEADER_BYTES + id_bytes], "utf-8")
    except UnicodeDecodeError:
        return None  # Somebody wrote over it.


def read_event(block: bytes | memoryview, sequence: int, topic: str) -> Event | None:
    """The event in `block`, its data not yet decoded; None when another event, or none, is there."""
    if len(block) < HEADER_BYTES:
        return None
    magic, _, there, _, _, id_bytes, _, envelope_bytes, data_bytes, raw_count = _unpack_header(block)
    envelope_at = HEADER_BYTES + id_bytes
    data_at = envelope_at + envelope_bytes
    end = data_at + data_bytes
    if magic != MAGIC or there != sequence or end > len(block):
        return None
    try:
        name = str(block[HEADER_BYTES:envelope_at], "utf-8")
    except UnicodeDecodeError:
        return None  # Somebody wrote over it.
    beside = memoryview(block).toreadonly()[(end + ALIGNMENT - 1) & -ALIGNMENT :] if raw_count else b""
    return Event._fetched(name, topic, block[envelope_at:data_at], block[data_at:end], beside, codec.decode)
