"""Payloads: an event to and from the bytes of layout.py.

`encode_event` makes the parts and knows their length, for which the caller finds room. `write_payload` puts them there,
behind a header. `read_event` makes an event over these bytes and decodes nothing: a field is decoded when it is asked
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgpack import UnpackException, unpackb

from eventbus_mp.errors import DecodeError, EncodeError, UsageError
from eventbus_mp.events import ENVELOPE_FIELDS, ID_BYTES_MAX, Event, fetched_event
from eventbus_mp.memory import codec
from eventbus_mp.memory.codec import Buffers, Encoder, decode_ext, idle_encoders, take_encoder
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES, MAGIC
from eventbus_mp.memory.wrapping import holds_buffers, wrap_buffers

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
"""Up to this length a payload is joined and copied once, which is faster than a copy for each part."""

SMALL_BYTES_MAX = 256
"""Up to this length no part of an event can be over its limit, and msgpack has only one mark for bytes in it: 0xC4."""
HEADER_AND_PADDING = HEADER_BYTES + ALIGNMENT - 1
KEPT_BYTES_MAX = 1 << 20
"""A packer keeps the memory of its largest value. After a value larger than this it is not used again."""

DECODE_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, UnpackException)
"""What msgpack and the decoders of values raise for bytes that were not encoded here."""

_pack_header, _unpack_header = HEADER.pack, HEADER.unpack_from


EncodedEvent = tuple[bytes, bytes, bytes, Buffers, int]
"""An event, ready to be written anywhere: id, envelope, data, buffers, and its payload's length, a multiple of 64.

A plain tuple, which functions unpack: to make it a NamedTuple takes 0.2 us, a fifth of encoding a small event.
"""


def encode_event(event: Event) -> EncodedEvent:
    """The event's parts as bytes. Its buffers are still the user's memory: `write_payload` copies them.

    Raises:
        EncodeError: The data, or a field of the envelope, cannot travel; the text names the part.
        UsageError: The id is too long, or `event` is not an Event.
    """
    try:
        encoder = idle_encoders.pop()  # `take_encoder`, written out: the call is 4 % of a small event's encoding
    except IndexError:
        encoder = Encoder()
    try:
        payload = event._payload
    except AttributeError as cause:
        raise UsageError(f"{event!r:.80} is a {type(event).__name__}; give an Event(id, topic, data)") from cause
    if payload is not None:
        event = event._made_here()
    try:
        name = event._id.encode()
        envelope = encoder.pack(list(event._envelope)) if event._envelope is not None else b""
        data = encoder.pack(event._data)
    except codec.ENCODE_FAILURES as cause:
        encoder.drop()
        return _encode_wrapped(event, cause)
    length = (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT
    if length > SMALL_BYTES_MAX or 0xC4 in data or encoder.buffers:
        return _encode_more(event, encoder, name, envelope, data)
    idle_encoders.append(encoder)
    return name, envelope, data, (), length


def _encode_more(
    event: Event, encoder: Encoder, name: bytes, envelope: bytes, data: bytes, *, wrapped: bool = False
) -> EncodedEvent:
    """The rest of `encode_event` for an event that is not small, or may have buffers.

    `wrapped`: its memoryviews and bytearrays were looked for, and are among the encoder's buffers.
    """
    # msgpack takes memoryviews and bytearrays for bytes. It marks bytes with 0xC4, 0xC5 or 0xC6, which may also be part
    # of a number or a text. So only data with one of these bytes in it has to be looked through, which costs as much
    # as packing it.
    if not wrapped and (0xC4 in data or 0xC5 in data or 0xC6 in data) and holds_buffers(event.data):
        encoder.take_buffers()
        idle_encoders.append(encoder)
        return _encode_wrapped(event, None)
    buffers = encoder.take_buffers() if encoder.buffers else ()
    if len(data) <= KEPT_BYTES_MAX:
        idle_encoders.append(encoder)
    else:
        encoder.drop()
    if len(name) > ID_BYTES_MAX:
        raise UsageError(f"Event.id {event.id!r:.60} has {len(name)} bytes of UTF-8; {ID_BYTES_MAX} are allowed")
    length = (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT
    if buffers:
        codec.check_envelope(_envelope(event))
        length += sum((len(buffer) + ALIGNMENT - 1) & -ALIGNMENT for buffer in buffers)
    return name, envelope, data, buffers, length


def _encode_wrapped(event: Event, cause: Exception | None) -> EncodedEvent:
    """Encode an event with its memoryviews and bytearrays wrapped. `cause` is the error of encoding it unwrapped."""
    encoder = take_encoder()
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
    """The error for the user: which part of the event cannot travel, and why."""
    if isinstance(cause, UnicodeEncodeError) and cause.object == event.id:
        return EncodeError(f"Event.id {event.id!r:.60} is not valid unicode text")
    text = codec.explain_event(_envelope(event), event.data, cause)
    return EncodeError(f"event {event.id!r} of topic {event.topic!r}: {text}")


def _envelope(event: Event) -> list[Any]:
    return [getattr(event, field) for field in ENVELOPE_FIELDS]


def encode_loaned(event: Event, raw_bytes: int) -> EncodedEvent:
    """`encode_event` for an event whose data, a `LoanedBuffer`, is `raw_bytes` of memory that are filled in place.

    Raises:
        EncodeError, UsageError: As `encode_event`.
    """
    *parts, length = encode_event(event)
    return (*parts, length + ((raw_bytes + ALIGNMENT - 1) & -ALIGNMENT))  # type: ignore[return-value]


def write_payload(view: memoryview, offset: int, encoded: EncodedEvent, sequence: int) -> None:
    """Write the payload to the segment `view` at `offset`, a multiple of 64. The caller has room for its length."""
    name, envelope, data, buffers, length = encoded
    header = _pack_header(MAGIC, len(name), 0, sequence, len(envelope), len(data), len(buffers))
    if length <= JOINED_BYTES_MAX and not buffers:
        payload = b"".join((header, name, envelope, data))
        view[offset : offset + len(payload)] = payload
    else:
        position = _write_parts(view, offset, (header, name, envelope, data))
        for buffer in buffers:
            position = _write_parts(view, position, (buffer,))


def write_loaned(view: memoryview, offset: int, encoded: EncodedEvent, sequence: int) -> None:
    """Write a loaned event, but for its buffer, which the producer has filled at `loaned_offset`."""
    name, envelope, data, _, _ = encoded
    header = _pack_header(MAGIC, len(name), 0, sequence, len(envelope), len(data), 1)
    _write_parts(view, offset, (header, name, envelope, data))


def loaned_offset(encoded: EncodedEvent) -> int:
    """The offset of a loaned event's buffer, counted from the event's header."""
    name, envelope, data, _, _ = encoded
    return (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT


def _write_parts(view: memoryview, start: int, parts: Sequence[bytes | memoryview]) -> int:
    """Write the parts one after the other: the next multiple of the alignment after them."""
    position = start
    for part in parts:
        view[position : position + len(part)] = part
        position += len(part)
    return start + ((position - start + ALIGNMENT - 1) & -ALIGNMENT)


def read_id(payload: bytes | memoryview, sequence: int) -> str | None:
    """The id of the event at the beginning of `payload`; None when another event, or none, is there."""
    if len(payload) < HEADER_BYTES:
        return None
    magic, id_bytes, _, there, _, _, _ = _unpack_header(payload)
    if magic != MAGIC or there != sequence:
        return None
    try:
        return str(payload[HEADER_BYTES : HEADER_BYTES + id_bytes], "utf-8")
    except UnicodeDecodeError:
        return None  # Its memory was overwritten.


def read_event(payload: bytes | memoryview, sequence: int, topic: str) -> Event | None:
    """The event at the beginning of `payload`, not decoded yet; None when another event, or none, is there.

    A view must stay what it is for as long as the event is used: its caller holds the delivery, or a lease.
    """
    if len(payload) < HEADER_BYTES:
        return None
    magic, id_bytes, _, there, envelope_bytes, data_bytes, raw_count = _unpack_header(payload)
    envelope_at = HEADER_BYTES + id_bytes
    data_at = envelope_at + envelope_bytes
    end = data_at + data_bytes
    if magic != MAGIC or there != sequence or end > len(payload):
        return None
    return fetched_event(topic, payload, (envelope_at, data_at, end, raw_count), _load)


def _load(event: Event, name: str) -> Any:
    """A field of a fetched event, decoded when it is first asked for.

    Raises:
        DecodeError: Its bytes are not those of an event, or a type of its data is not known here.
    """
    payload: Any = event._payload
    envelope_at, data_at, end, raw_count = event._marks
    try:
        if name == "data":
            if not raw_count:
                return unpackb(payload[data_at:end], ext_hook=decode_ext, strict_map_key=False)
            beside = memoryview(payload).toreadonly()[(end + ALIGNMENT - 1) & -ALIGNMENT :]
            return codec.decode(payload[data_at:end], beside)
        if name == "id":
            return str(payload[HEADER_BYTES:envelope_at], "utf-8")
        if name == "raw":
            return payload[data_at:end]
        return _envelope_of(payload[envelope_at:data_at]) if data_at > envelope_at else None
    except DECODE_FAILURES as cause:
        raise DecodeError(
            f"the {name} of an event of topic {event.topic!r} cannot be read ({type(cause).__name__}: {cause}): "
            "something wrote over its memory"
        ) from cause


def _envelope_of(data: bytes) -> tuple[Any, ...]:
    """The fields of `ENVELOPE_FIELDS`, in this order."""
    values = codec.decode(data)
    if not isinstance(values, list) or len(values) != len(ENVELOPE_FIELDS):
        raise ValueError(f"{values!r:.60} is no envelope")
    return tuple(values)
