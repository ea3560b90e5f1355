"""Decoders: from the pieces that a pipe gives to whole messages, in both directions.

A pipe gives bytes and knows no messages: what one read brings may end anywhere, even within a record. `feed` takes
such a piece and returns the messages that are complete with it; the rest waits for the next piece. The messages of one
process keep one order, whatever their kind.

A message is a frame: a record, and for some kinds as many bytes as the record says (see records.py), padded to whole
records. There is one exception, for speed. Notified records that follow each other, a run of them, are cut as one
piece and become one message, without being unpacked one by one (`ManagerDecoder._notified`).
"""

from __future__ import annotations

from typing import Any

import msgpack

from eventbus_mp.errors import ProtocolError, UsageError
from eventbus_mp.geometry import RECORD_BYTES, SETTLED_RANGE_MAX
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import (
    ClientEvent,
    Delivered,
    ManagerChanged,
    Replied,
    read_client_event,
)
from eventbus_mp.protocol.messages import (
    DeliveriesSettled,
    DeliveriesTaken,
    EventsNotified,
    Message,
    Outcome,
    Record,
    SpanLeased,
    SpanReleased,
    SpanSealed,
    SpanWanted,
)
from eventbus_mp.protocol.records import (
    DEADLINE_NS,
    FLAG_AWAITED,
    FLAG_TIMED,
    KIND_BYTE,
    LENGTH,
    NOTIFIED,
    NOTIFIED_KINDS,
    OFFSET,
    RECORD,
    SEGMENT,
    TOPIC,
)
from eventbus_mp.protocol.requests import REQUESTS, Request, field_types, fits, said_types

__all__ = ["ClientDecoder", "ManagerDecoder", "decode_request", "encode_request", "unpack"]

REQUEST_BYTES_MAX = 1 << 20
_OUTCOMES = frozenset(int(outcome) for outcome in Outcome)
_WITH_BODY = (records.REPLIED, records.REFUSED, records.REPLY_PART)
"""What the manager sends that has a body of `length` bytes."""

# The columns of a table of records, as slices of it: every tenth of the 32-bit words, every fifth of the 64-bit ones.
# The last two fields are the last two 64-bit words.
_WORD_COLUMNS = [slice(field, None, RECORD_BYTES // 4) for field in (TOPIC, SEGMENT, OFFSET, LENGTH)]
_SEQUENCE_COLUMN = slice(4, None, RECORD_BYTES // 8)


class _Assembler:
    """Joins the pieces that a pipe gives, until they have at least one whole message.

    What is left over after the last whole message is kept, with the number of bytes that would complete it. Further
    pieces are only collected until there are as many: a reply of a megabyte is joined once, and not again with every
    piece of 64 KiB.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = RECORD_BYTES

    def join(self, piece: bytes) -> bytes | None:
        """Everything that is not decoded yet, or None if it cannot have a whole message."""
        if self._pieces:
            self._pieces.append(piece)
            self._have += len(piece)
            if self._have < self._need:
                return None
            piece = b"".join(self._pieces)
            self._pieces.clear()
            self._need = RECORD_BYTES
        elif len(piece) < self._need:
            self.keep(piece, self._need)
            return None
        return piece

    def keep(self, rest: bytes, need: int) -> None:
        """Put back what is not yet a whole message, of which the first one will have `need` bytes."""
        self._need = need
        self._have = len(rest)
        if rest:
            self._pieces.append(rest)


class ManagerDecoder:
    """What a process sends, as messages for the core.

    Args:
        link: The number of the process's link, which every message gets.
    """

    def __init__(self, link: int) -> None:
        self._link = link
        self._pieces = _Assembler()

    def feed(self, piece: bytes) -> list[Message]:
        """The messages that are complete with this piece.

        Raises:
            ProtocolError: The bytes are not the protocol; the decoder cannot be used any more.
        """
        data = self._pieces.join(piece)
        if data is None:
            return []
        messages: list[Message] = []
        position, size = 0, len(data)
        need = RECORD_BYTES
        while size - position >= RECORD_BYTES:
            if data[position + KIND_BYTE] in NOTIFIED_KINDS:
                end = self._end_of_run(data, position)
                messages += self._notified(data[position:end])
                position = end
                continue
            kind, first, segment, offset, length, reason, delay_ns, sequence = RECORD.unpack_from(data, position)
            if kind == records.SETTLED:
                self._settled(first, segment, offset, length, reason, delay_ns, sequence, messages)
            elif kind == records.TAKEN:
                self._taken(segment, length, sequence, messages)
            elif kind == records.REQUEST:
                need = RECORD_BYTES + _body_bytes(length)
                if size - position < need:
                    break
                body = data[position + RECORD_BYTES : position + RECORD_BYTES + length]
                messages.append(decode_request(self._link, first, sequence, body))
                position += need - RECORD_BYTES
                need = RECORD_BYTES
            else:
                messages.append(self._message(kind, first, segment, offset, length, sequence))
            position += RECORD_BYTES
        if position != size:
            self._pieces.keep(data[position:], need)
        return messages

    @staticmethod
    def _end_of_run(data: bytes, position: int) -> int:
        """Where the run of notified records that begins at `position` ends.

        The kind of a record is one byte, so one slice has the kinds of all records that may follow, and `lstrip` finds
        the first that is not a notified one: two calls for any number of records.
        """
        if len(data) - position < 2 * RECORD_BYTES:
            return position + RECORD_BYTES
        stop = len(data) - (len(data) - position) % RECORD_BYTES
        kinds = data[position + KIND_BYTE : stop : RECORD_BYTES]
        others = kinds.lstrip(NOTIFIED_KINDS)
        return position + (len(kinds) - len(others)) * RECORD_BYTES

    def _notified(self, packed: bytes) -> list[Message]:
        """A run of notified records, as one message.

        The records are read by column and not by row. A record is ten 32-bit words or five 64-bit ones, so every tenth
        word is the topic of the next event, and every fifth long word its sequence: a slice of a memoryview gives a
        column in one call, as the list that the core wants, which compares and sums whole columns. Unpacking row by row
        would make a tuple for each event first, only to take it apart.

        If the sequence numbers do not follow each other, each event is a message of its own, and the core judges them.
        """
        if len(packed) == RECORD_BYTES:
            return [self._notified_alone(packed)]
        numbers = memoryview(packed).cast("Q")[_SEQUENCE_COLUMN].tolist()
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            singles = [packed[start : start + RECORD_BYTES] for start in range(0, len(packed), RECORD_BYTES)]
            return [self._notified_alone(single) for single in singles]
        words = memoryview(packed).cast("I")
        kinds = packed[KIND_BYTE::RECORD_BYTES]
        deadlines, awaited = {}, 0
        if kinds.count(NOTIFIED) != len(kinds):
            for index, kind in enumerate(kinds):
                awaited |= (kind - NOTIFIED & FLAG_AWAITED) << index
                if kind - NOTIFIED & FLAG_TIMED:
                    deadlines[index] = RECORD.unpack_from(packed, index * RECORD_BYTES)[DEADLINE_NS]
        topics, segments, offsets, lengths = (words[column].tolist() for column in _WORD_COLUMNS)
        return [EventsNotified(self._link, numbers[0], packed, topics, segments, offsets, lengths, deadlines, awaited)]

    def _notified_alone(self, raw: bytes) -> EventsNotified:
        """A run of one record, in a third of the time that columns take."""
        kind, topic, segment, offset, length, _, deadline_ns, sequence = RECORD.unpack(raw)
        deadlines = {0: deadline_ns} if kind - NOTIFIED & FLAG_TIMED else {}
        awaited = kind - NOTIFIED & FLAG_AWAITED
        return EventsNotified(self._link, sequence, raw, [topic], [segment], [offset], [length], deadlines, awaited)

    def _settled(
        self,
        outcome: int,
        subscriber: int,
        cost_ns: int,
        count: int,
        reason: int,
        delay_ns: int,
        first: int,
        messages: list[Message],
    ) -> None:
        """Add a settled range to the message before it, if that one settles for the same subscriber in the same way."""
        if outcome not in _OUTCOMES:
            raise ProtocolError(f"outcome {outcome} does not exist")
        if not 0 < count <= SETTLED_RANGE_MAX:
            raise ProtocolError(f"{count} deliveries were settled at once")
        last = messages[-1] if messages else None
        if (
            type(last) is DeliveriesSettled
            and last.subscriber == subscriber
            and last.outcome == outcome
            and last.reason == reason
            and last.delay_ns == delay_ns
        ):
            last.ranges.append((first, count))
        else:
            ranges = [(first, count)]
            messages.append(DeliveriesSettled(self._link, subscriber, outcome, ranges, cost_ns, reason, delay_ns))

    def _taken(self, subscriber: int, count: int, first: int, messages: list[Message]) -> None:
        """Add a taken range to the message before it, if that one is of the same kind and subscriber."""
        if not 0 < count <= SETTLED_RANGE_MAX:
            raise ProtocolError(f"{count} deliveries were taken at once")
        last = messages[-1] if messages else None
        if type(last) is DeliveriesTaken and last.subscriber == subscriber:
            last.ranges.append((first, count))
        else:
            messages.append(DeliveriesTaken(self._link, subscriber, [(first, count)]))

    def _message(self, kind: int, first: int, segment: int, offset: int, length: int, sequence: int) -> Message:
        if kind == records.SPAN_WANTED:
            return SpanWanted(self._link, length, first, segment, offset)
        if kind == records.SPAN_SEALED:
            return SpanSealed(self._link, segment, offset)
        if kind == records.SPAN_LEASED:
            return SpanLeased(self._link, first, segment, offset, length, sequence)
        if kind == records.SPAN_RELEASED:
            return SpanReleased(self._link, sequence)
        raise ProtocolError(f"kind {kind} does not exist")


def _body_bytes(length: int) -> int:
    """How many bytes of whole records hold a request of `length`."""
    if length > REQUEST_BYTES_MAX:
        raise ProtocolError(f"a message of {length} bytes is over {REQUEST_BYTES_MAX}")
    return length + -length % RECORD_BYTES


def encode_request(message: Request) -> bytes:
    """A request as it travels; its `link` does not.

    Raises:
        UsageError: A field is of a wrong type, or larger than the manager takes; it would close the link for that.
    """
    kind = type(message)
    types = field_types(kind.NUMBER)
    values = {name: getattr(message, name) for name in types}
    for name, value in values.items():
        if not fits(value, types[name]):
            given = f"{name}={value!r:.80} is a {type(value).__name__}"
            raise UsageError(f"{kind.__name__}: {given}; give a {said_types(kind)[name]}")
    try:
        body = msgpack.packb(list(values.values()))
    except (ValueError, OverflowError) as cause:
        raise UsageError(f"{kind.__name__}: it cannot travel: {cause}") from cause
    if len(body) > REQUEST_BYTES_MAX:
        raise UsageError(f"{kind.__name__}: it has {len(body)} bytes, over {REQUEST_BYTES_MAX}: {values!r:.80}")
    return records.pack_request(kind.NUMBER, message.request, body)


def decode_request(link: int, kind: int, number: int, body: bytes) -> Request:
    """A request from its body, with every field's type checked.

    Raises:
        ProtocolError: It is not one of `REQUESTS`, or a field is of a wrong type.
    """
    wanted = REQUESTS.get(kind)
    if wanted is None:
        raise ProtocolError(f"request {kind} does not exist")
    try:
        values = msgpack.unpackb(body)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as cause:
        raise ProtocolError(f"a {wanted.__name__} is not msgpack: {cause}") from cause
    types = field_types(kind)
    if not isinstance(values, list) or len(values) != len(types):
        raise ProtocolError(f"a {wanted.__name__} has {len(types)} fields")
    for value, (name, expected) in zip(values, types.items(), strict=True):
        if not fits(value, expected):
            belongs = said_types(wanted)[name]
            raise ProtocolError(f"a {wanted.__name__} has a {type(value).__name__} where {belongs} belongs")
    return wanted(link, number, *values)


class ClientDecoder:
    """What the manager sends, for a process. A long reply comes in parts, between which there may be other messages."""

    def __init__(self) -> None:
        self._pieces = _Assembler()
        self._parts: dict[int, list[bytes]] = {}
        """Request number -> the reply so far."""

    def feed(self, piece: bytes) -> list[ClientEvent]:
        """The messages that are complete with this piece.

        Raises:
            ProtocolError: The bytes are not the protocol.
        """
        data = self._pieces.join(piece)
        if data is None:
            return []
        messages: list[ClientEvent] = []
        position, size = 0, len(data)
        need = RECORD_BYTES
        while size - position >= RECORD_BYTES:
            record = RECORD.unpack_from(data, position)
            kind, attempt, subscriber, count, length, _, _, sequence = record
            if kind == records.DELIVERED:
                need = RECORD_BYTES + count * RECORD_BYTES
            elif kind in _WITH_BODY:
                need = RECORD_BYTES + length + -length % RECORD_BYTES
            if size - position < need:
                break
            body = data[position + RECORD_BYTES : position + need]
            position += need
            need = RECORD_BYTES
            if kind == records.DELIVERED:
                messages.append(Delivered(subscriber, attempt, body))
            elif kind == records.REPLY_PART:
                self._parts.setdefault(sequence, []).append(body)
            elif kind in _WITH_BODY:
                parts = self._parts.pop(sequence, []) if self._parts else []
                messages.append(Replied(sequence, kind == records.REFUSED, b"".join([*parts, body[:length]])))
            else:
                messages.append(self._message(record))
        if position != size:
            self._pieces.keep(data[position:], need)
        return messages

    def _message(self, record: Record) -> ClientEvent:
        event = read_client_event(record)
        if type(event) is ManagerChanged:
            self._parts.clear()  # A reply that was cut off comes again, whole.
        return event


def unpack(body: bytes) -> Any:
    """A reply's value."""
    return msgpack.unpackb(body, strict_map_key=False, use_list=True)
