"""Payloads: an event to and from the bytes of layout.py.

`encode_event` makes the parts and knows their length, for which the caller finds room; written.py puts them there,
behind a header. `read_event` makes an event over these bytes and decodes nothing: a field is decoded when it is asked
for.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

from msgpack import UnpackException, unpackb

from eventbus_mp.errors import DecodeError, EncodeError, UsageError
from eventbus_mp.events import ENVELOPE_FIELDS, FORMAT, ID_BYTES_MAX, NOT_READ, EncodedData, Event, fetched_event
from eventbus_mp.ids import EventId, decode_id, encode_id
from eventbus_mp.memory import codec
from eventbus_mp.memory.buffers import Beside, Buffers, holds_buffers
from eventbus_mp.memory.codec import MARKED, Pack, idle_packers, make_packer
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES, MAGIC
from eventbus_mp.memory.plain import decode_marked
from eventbus_mp.memory.written import HEADER_AND_PADDING, EncodedEvent

__all__ = [
    "Event",
    "detached",
    "encode_event",
    "encode_loaned",
    "id_crc",
    "let_go",
    "with_envelope",
    "read_event",
    "sequence_of",
]

new_tuple = tuple.__new__
"""Makes a NamedTuple of a tuple in a third of the time of calling its class."""
SMALL_BYTES_MAX = 256
"""Up to this length no part of an event can be over its limit, and msgpack has only one mark for bytes in it: 0xC4."""
KEPT_BYTES_MAX = 1 << 20
"""A packer keeps the memory of its largest value. After a value larger than this it is not used again."""

DECODE_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, UnpackException)
"""What msgpack and the decoders of values raise for bytes that were not encoded here."""

ENVELOPE_LENGTHS = (len(ENVELOPE_FIELDS) - 1, len(ENVELOPE_FIELDS))
"""An envelope without headers, which come last, ends before them."""

_unpack_header = HEADER.unpack_from


def encode_event(event: Event) -> EncodedEvent:
    """The event's parts as bytes. Its buffers are still the user's memory: `write_payload` copies them.

    Raises:
        EncodeError: The data, or a field of the envelope, cannot travel; the text names the part.
        UsageError: The id is too long, or `event` is not an Event.
    """
    try:
        pack = idle_packers.pop()
    except IndexError:
        pack = make_packer()
    try:
        payload = event._payload
    except AttributeError as cause:
        raise UsageError(f"{event!r:.80} is a {type(event).__name__}; give an Event(id, topic, data)") from cause
    if payload is not None:
        return _encode_again(event, pack)
    try:
        event_id = event._id
        name = event_id.encode() if type(event_id) is str else encode_id(event_id)
        envelope = pack(list(event._envelope)) if event._envelope is not None else b""
        data = pack(event._data)
    except Exception:
        pass  # Not what msgpack has. `_encode_marked` finds out more.
    else:
        length = (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT
        if length > SMALL_BYTES_MAX or 0xC4 in data or (envelope and 0xC4 in envelope):
            return _encode_more(event, pack, name, envelope, data)
        idle_packers.append(pack)
        return name, envelope, data, (), length
    return _encode_marked(event, pack)


def _idle_packer() -> Pack:
    try:
        return idle_packers.pop()
    except IndexError:
        return make_packer()


def _encode_more(event: Event, pack: Pack, name: bytes, envelope: bytes, data: bytes) -> EncodedEvent:
    """The rest of `encode_event` for an event that is not small, has an envelope, or may have buffers."""
    if _may_hold_buffers(data) and holds_buffers(event._data):
        return _encode_marked(event, pack)
    if envelope and _may_hold_buffers(envelope) and holds_buffers(_envelope(event)):
        return _encode_marked(event, pack)
    return _parts(event, pack, name, envelope, data, ())


def _may_hold_buffers(packed: bytes) -> bool:
    # msgpack takes memoryviews and bytearrays for bytes. It marks bytes with one of these, which may also be part of a
    # number or a text. So only data with one of them in it has to be looked through, which costs as much as packing it.
    return 0xC4 in packed or 0xC5 in packed or 0xC6 in packed


def _encode_marked(event: Event, pack: Pack) -> EncodedEvent:
    """Encode an event with values in it that msgpack does not have, or that cannot travel at all."""
    beside = Beside()
    try:
        name = encode_id(event.id)
        envelope = _pack_envelope(event, pack)
        data = codec.pack_data(pack, event._data, beside)
    except Exception as cause:
        beside.release()
        raise _encode_error(event, cause) from codec.without_frames(cause)
    return _parts(event, pack, name, envelope, data, tuple(beside.pieces))


def _pack_envelope(event: Event, pack: Pack) -> bytes:
    return codec.pack_envelope(pack, _envelope(event)) if event._envelope is not None else b""


def _parts(event: Event, pack: Pack, name: bytes, envelope: bytes, data: bytes, buffers: Buffers) -> EncodedEvent:
    if len(data) <= KEPT_BYTES_MAX:
        idle_packers.append(pack)
    _check_name(event, name)
    length = (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT
    if buffers:
        length += sum((len(buffer) + ALIGNMENT - 1) & -ALIGNMENT for buffer in buffers)
    return name, envelope, data, buffers, length


def _check_name(event: Event, name: bytes) -> None:
    if len(name) > ID_BYTES_MAX:
        raise UsageError(f"Event.id {event.id!r:.60} has {len(name)} bytes of UTF-8; {ID_BYTES_MAX} are allowed")


def detached(encoded: EncodedEvent) -> EncodedEvent:
    """With buffers of its own: what a generator gave may be filled anew for its next event."""
    name, envelope, data, buffers, length = encoded
    return name, envelope, data, tuple(memoryview(bytes(buffer)) for buffer in buffers), length


def let_go(event: Event, encoded: EncodedEvent) -> None:
    """Let go of the user's memory, because the event will not be written. The user may still have the error."""
    if event._payload is None:  # Those of encoded data belong to the event.
        for buffer in encoded[3]:
            buffer.release()


def _encode_again(event: Event, pack: Pack) -> EncodedEvent:
    """An event whose data is encoded already: nothing of it is decoded, and its types need not be known here."""
    payload: Any = event._payload
    if type(payload) is EncodedData:
        data, buffers, _ = payload
        name, envelope = _encode_name_and_envelope(event, pack)
    else:
        idle_packers.append(pack)
        envelope_at, data_at, _, _ = event._marks
        name, envelope = bytes(payload[HEADER_BYTES:envelope_at]), bytes(payload[envelope_at:data_at])
        data, buffers, _ = _encoded_data(event)
    length = (len(name) + len(envelope) + len(data) + HEADER_AND_PADDING) & -ALIGNMENT
    if buffers:
        length += sum((len(buffer) + ALIGNMENT - 1) & -ALIGNMENT for buffer in buffers)
    return name, envelope, data, buffers, length


def _encode_name_and_envelope(event: Event, pack: Pack) -> tuple[bytes, bytes]:
    """The first two parts of an event, whatever its data is, which is not looked at.

    Raises:
        EncodeError: A field of the envelope cannot travel.
        UsageError: The id is too long.
    """
    fields = event._envelope
    if fields is NOT_READ:
        fields = event._envelope = _load_envelope(event)
    try:
        event_id = event._id
        name = event_id.encode() if type(event_id) is str else encode_id(event.id)
        envelope = _pack_fields(pack, list(fields)) if fields is not None else b""
    except Exception as cause:
        without_data = Event(event.id, event.topic, None, **dict(zip(ENVELOPE_FIELDS, fields or (), strict=False)))
        raise _encode_error(without_data, cause) from codec.without_frames(cause)
    idle_packers.append(pack)
    if len(name) > ID_BYTES_MAX:
        _check_name(event, name)
    return name, envelope


def _pack_fields(pack: Pack, fields: list[Any]) -> bytes:
    """The fields of an envelope, as `encode_event` packs them."""
    try:
        packed = pack(fields)
    except Exception:
        return codec.pack_envelope(pack, fields)
    if _may_hold_buffers(packed) and holds_buffers(fields):
        return codec.pack_envelope(pack, fields)
    return packed


def _encode_error(event: Event, cause: Exception) -> EncodeError:
    """The error for the user: which part of the event cannot travel, and why."""
    if isinstance(cause, UnicodeEncodeError) and cause.object is event.id:
        return EncodeError(f"Event.id {event.id!r:.60} is not valid unicode text")
    text = codec.explain_event(_envelope(event), event.data, cause)
    return EncodeError(f"event {event.id!r} of topic {event.topic!r}: {text}")


def _envelope(event: Event) -> list[Any]:
    if event._envelope is NOT_READ:
        event._envelope = _load_envelope(event)
    return list(event._envelope) if event._envelope is not None else [None] * ENVELOPE_LENGTHS[0]


def with_envelope(encoded: EncodedEvent, event: Event) -> EncodedEvent:
    """The same id, data and buffers with the envelope of `event`.

    Raises:
        EncodeError: A field of the envelope cannot travel.
    """
    name, old, data, buffers, length = encoded
    _, envelope = _encode_name_and_envelope(event, _idle_packer())
    rest = len(name) + len(data) + HEADER_AND_PADDING
    length += ((rest + len(envelope)) & -ALIGNMENT) - ((rest + len(old)) & -ALIGNMENT)
    return name, envelope, data, buffers, length


def encode_loaned(event: Event, raw_bytes: int) -> EncodedEvent:
    """`encode_event` for an event whose data, a `LoanedBuffer`, is `raw_bytes` of memory that are filled in place.

    Raises:
        EncodeError, UsageError: As `encode_event`.
    """
    *parts, length = encode_event(event)
    return (*parts, length + ((raw_bytes + ALIGNMENT - 1) & -ALIGNMENT))  # type: ignore[return-value]


def id_crc(event_id: EventId) -> int:
    """The CRC-32 of the id's bytes, as the event's record has it.

    Raises:
        UsageError: It is not valid unicode text.
    """
    try:
        return crc32(encode_id(event_id))
    except UnicodeEncodeError as cause:
        raise UsageError(f"{event_id!r:.60} is not an event's id: it is not valid unicode text") from cause


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
    return fetched_event(topic, payload, (envelope_at, data_at, end, raw_count))


def sequence_of(event: Event) -> int:
    """The sequence number of an event that was fetched."""
    payload: Any = event._payload
    sequence: int = _unpack_header(payload)[3]
    return sequence


def _load_id(event: Event) -> EventId:
    """The id of a fetched event.

    Raises:
        DecodeError: Its bytes are not those of an id.
    """
    payload: Any = event._payload
    try:
        return decode_id(payload[HEADER_BYTES : event._marks[0]])
    except DECODE_FAILURES as cause:
        raise _decode_error(event, "id", cause) from cause


def _load_data(event: Event) -> Any:
    """The data of a fetched event, or of one of `Event.from_encoded`.

    Raises:
        DecodeError: Its bytes are not those of an event, or a type of its data is not known here.
    """
    payload: Any = event._payload
    try:
        if type(payload) is EncodedData:
            return _decode_encoded(payload)
        _, data_at, end, raw_count = event._marks
        data = payload[data_at:end]
        if data[0] != MARKED:
            return unpackb(data, strict_map_key=False)
        return decode_marked(data[1:], _beside(payload, end) if raw_count else b"")
    except DECODE_FAILURES as cause:
        raise _decode_error(event, "data", cause) from cause


def _load_envelope(event: Event) -> tuple[Any, ...] | None:
    """The envelope of a fetched event, if it has one; raises as `_load_id`."""
    payload: Any = event._payload
    envelope_at, data_at, _, _ = event._marks
    if envelope_at == data_at:
        return None
    try:
        return _envelope_of(payload[envelope_at:data_at])
    except DECODE_FAILURES as cause:
        raise _decode_error(event, "envelope", cause) from cause


def _load_encoded(event: Event) -> EncodedData:
    """The data of any event, encoded; of one that was made here, it is encoded now."""
    payload: Any = event._payload
    if payload is None:
        _, _, data, buffers, _ = encode_event(event)
        return EncodedData(data, buffers)
    return _encoded_data(event) if type(payload) is not EncodedData else payload


def _decode_error(event: Event, field: str, cause: Exception) -> DecodeError:
    return DecodeError(
        f"the {field} of an event of topic {event.topic!r} cannot be read ({type(cause).__name__}: {cause}): "
        "something wrote over its memory"
    )


Event._load_id, Event._load_data, Event._load_envelope = _load_id, _load_data, _load_envelope
Event._load_encoded = _load_encoded


def _encoded_data(event: Event) -> EncodedData:
    """That of a fetched event. Of a small one, which is a copy, the data is one as well: that is less than a view."""
    payload: Any = event._payload
    _, data_at, end, raw_count = event._marks
    data = payload[data_at:end] if type(payload) is bytes else payload.toreadonly()[data_at:end]
    return new_tuple(EncodedData, (data, (_beside(payload, end),) if raw_count else (), FORMAT))


def _beside(payload: bytes | memoryview, end: int) -> memoryview:
    """The memory beside the data, which ends at `end`."""
    return memoryview(payload).toreadonly()[(end + ALIGNMENT - 1) & -ALIGNMENT :]


def _decode_encoded(encoded: EncodedData) -> Any:
    """The data of an event of `Event.from_encoded`."""
    data, buffers, _ = encoded
    if len(buffers) <= 1:
        return codec.decode(data, *buffers)
    # Where each begins is counted from the first, at multiples of 64.
    return codec.decode(data, b"".join(bytes(buffer) + bytes(-len(buffer) % ALIGNMENT) for buffer in buffers))


def _envelope_of(data: bytes) -> tuple[Any, ...]:
    """The fields of `ENVELOPE_FIELDS`, in this order; without headers, it ends before them."""
    values = codec.decode(data)
    if not isinstance(values, list) or len(values) not in ENVELOPE_LENGTHS:
        raise ValueError(f"{values!r:.60} is not an envelope")
    return tuple(values)
