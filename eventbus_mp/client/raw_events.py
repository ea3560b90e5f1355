"""Events published as the bytes that they are: payloads of another bus, checked, numbered anew, and copied once."""

from __future__ import annotations

from itertools import islice
from zlib import crc32

from eventbus_mp.arguments import as_list
from eventbus_mp.client.directions import Direction
from eventbus_mp.client.publisher import Publisher
from eventbus_mp.client.receipt_box import OpenBox
from eventbus_mp.client.steps import Steps
from eventbus_mp.errors import DecodeError, EventBusError, UsageError
from eventbus_mp.events import EventShadow
from eventbus_mp.ids import decode_id
from eventbus_mp.memory.arena import Arena
from eventbus_mp.memory.layout import ALIGNMENT, HEADER, HEADER_BYTES
from eventbus_mp.memory.payload import read_event
from eventbus_mp.memory.raw import sequence_in, why_no_payload
from eventbus_mp.protocol import records
from eventbus_mp.protocol.records import FLAG_TIMED, NOTIFIED, RECORD

__all__ = ["check_raws", "publish_raws"]

pack_record = RECORD.pack
unpack_header = HEADER.unpack_from
SEQUENCE_WORD = 1
"""Where a header has its sequence, in words of 64 bits."""
RUN_BYTES_MAX = 1 << 16
"""How much is joined, to be copied at once. A larger block is copied by itself, without being joined."""


Raw = tuple[str, bytes | memoryview, int, int, int]
"""A block that is a payload: its topic, itself, its length, the CRC of its id, and when its time is over; 0: never. A
plain tuple, as `EncodedEvent` is."""


def check_raws(publisher: Publisher, raws: object) -> list[Raw]:
    """The blocks, each of which was looked at; nothing is decoded but the envelope, if there is one.

    Raises:
        UsageError: One is not a payload; the text has its index.
    """
    # hot path: 1 us an event.
    most = publisher.event_bytes_max
    found: list[Raw] = []
    for index, (topic, block) in enumerate(_pairs(raws)):
        if type(block) is not bytes:
            block = _bytes_of(index, block)
        wrong, length = why_no_payload(block), len(block)
        if wrong or length > most:
            raise _refusal(index, wrong or f"{length} bytes are more than BusConfig.event_bytes_max, {most}")
        _, id_bytes, _, _, envelope_bytes, _, _ = unpack_header(block)
        deadline_ns = _deadline_ns(publisher, index, topic, block) if envelope_bytes else 0
        crc = crc32(block[HEADER_BYTES : HEADER_BYTES + id_bytes])
        found.append((topic, block, length, crc, deadline_ns))
    return found


def _pairs(raws: object) -> list[tuple[str, bytes | memoryview]]:
    wanted = as_list(raws)
    if wanted is None or not all(isinstance(item, tuple) and len(item) == 2 for item in wanted):
        raise UsageError(f"notify_raw({raws!r:.80}): give a list of (topic, block)")
    return wanted


def _bytes_of(index: int, block: object) -> memoryview:
    try:
        return memoryview(block).cast("B")  # type: ignore[arg-type]
    except (TypeError, ValueError) as cause:
        raise _refusal(index, f"it is a {type(block).__name__} and not bytes in one piece") from cause


def _deadline_ns(publisher: Publisher, index: int, topic: str, block: bytes | memoryview) -> int:
    """When an event's time is over, counted anew on the clock of this machine."""
    event = read_event(block, sequence_in(block), topic)
    assert event is not None
    try:
        ttl, occurred_at = event.ttl, event.occurred_at
    except DecodeError as cause:
        raise _refusal(index, f"its envelope cannot be read ({cause})") from cause
    if ttl is None:
        return 0
    if type(ttl) is not int or type(occurred_at) is not int:
        raise _refusal(index, f"it has the ttl {ttl!r:.40} from {occurred_at!r:.40} on")
    return publisher.deadline_ns(event)


def _refusal(index: int, why: str) -> UsageError:
    return UsageError(f"notify_raw: raws[{index}] is not an event's payload: {why}")


def publish_raws(
    box: OpenBox, direction: Direction, raws: list[Raw], tags: list[bytes], timeout_s: float | None
) -> None:
    """Publish checked blocks, and wait for memory.

    Raises:
        BusFull: There would be too many receipts, and nothing was published; or there was no memory in time.
    """
    box.reserve(len(tags))
    writer = _RawWriter(box, direction, raws, tags)
    try:
        box.session.connection.run(writer.publishing(timeout_s))
    finally:
        box.unreserve(len(tags) - writer.done)


class _RawWriter:
    """The blocks of one `notify_raw`, on their way into shared memory.

    Args:
        box: Where the receipts are kept; it has room for them.
        direction: To whom the events go.
        raws: The blocks.
        tags: A tag for each.
    """

    def __init__(self, box: OpenBox, direction: Direction, raws: list[Raw], tags: list[bytes]) -> None:
        self._box = box
        self._numbers = box.session.publisher.numbers
        self._span_pool = box.session.publisher.span_pool
        self._transport = box.session.connection.transport
        self._protocol = box.session.connection.protocol
        self._direction = direction
        self._raws = raws
        self._tags = tags
        self._topics: dict[str, int] = {}
        self._parts: list[bytes] = []
        """Records of what is in memory and was not notified yet."""
        self._sent: list[bytes] = []
        """The tags of these."""
        self._dropped: list[bytes] = []
        """The tags of events that nobody is subscribed to."""
        self._read = 0
        """How many are in memory, or dropped."""
        self.done = 0
        """How many are published."""

    def publishing(self, timeout_s: float | None) -> Steps[None]:
        """Publish them, in their order.

        Raises:
            BusFull: There was no memory in time; its `published` says what was.
        """
        pool = self._span_pool
        for name in {raw[0] for raw in self._raws}:
            self._topics[name] = self._protocol.topics.get(name) or (yield from self._numbers.numbering(name))
        arena = pool.choose()
        while self.done < len(self._raws):
            with self._transport.lock.held():
                filled = self._write(arena)
            if filled is not None:
                pool.order_ahead(*filled)
            if self.done < len(self._raws):
                topic, _, length, _, _ = self._raws[self.done]
                try:
                    arena = yield from pool.getting(length, self._topics[topic], timeout_s)
                except EventBusError as error:
                    error.published = tuple(map(_shadow, self._raws[: self.done]))
                    raise

    def _write(self, arena: Arena) -> tuple[int, int] | None:
        """Write and notify as many as there is room for: (length of the last span that was filled, by how much)."""
        first, last = self._protocol.sequence + 1, None
        try:
            while self._read < len(self._raws):
                self._write_run(arena)
                if self._read == len(self._raws):
                    break
                filled, is_written = self._write_alone(arena)
                last = filled or last
                if not is_written:
                    break
        finally:
            self._send(first)
        return last

    def _write_run(self, arena: Arena) -> None:
        """Those that fit into the span in use, joined, and copied at once."""
        # hot path: 0.7 us an event.
        topics, sequence, segment = self._topics, self._protocol.sequence, arena.segment
        begin = position = arena.position
        end = min(arena.end, begin + RUN_BYTES_MAX)
        blocks, words, parts, tags, dropped = [], [], [], [], []
        for (name, block, length, crc, deadline_ns), tag in zip(
            islice(self._raws, self._read, None), islice(self._tags, self._read, None), strict=True
        ):
            topic = topics[name]
            if not topic:
                dropped.append(tag)
                continue
            if position + length > end:
                break
            sequence += 1
            kind = NOTIFIED + FLAG_TIMED if deadline_ns else NOTIFIED
            parts.append(pack_record(kind, topic, segment, position, length, crc, deadline_ns, sequence))
            words.append((position - begin >> 3) + SEQUENCE_WORD)
            blocks.append(block)
            tags.append(tag)
            position += length
        if blocks:
            # Numbered before they are in shared memory: their own numbers may be those of events of this bus.
            joined = bytearray().join(blocks)
            numbers = memoryview(joined).cast("Q")
            for number, word in enumerate(words, self._protocol.sequence + 1):
                numbers[word] = number
            arena.view[begin:position] = joined
            arena.position = position
            self._protocol.sequence = sequence
        self._parts += parts
        self._sent += tags
        self._dropped += dropped
        self._read += len(tags) + len(dropped)

    def _write_alone(self, arena: Arena) -> tuple[tuple[int, int] | None, bool]:
        """The next one, which goes to another span: (what was filled, whether there was room)."""
        name, block, length, crc, deadline_ns = self._raws[self._read]
        slot = arena.reserve(length)
        if slot is None:
            return None, False
        view, segment, offset, filled = slot
        try:
            sequence = self._protocol.next_sequence()
            head = bytearray(block[:ALIGNMENT])
            memoryview(head).cast("Q")[SEQUENCE_WORD] = sequence
            view[offset : offset + ALIGNMENT] = head
            view[offset + ALIGNMENT : offset + length] = memoryview(block)[ALIGNMENT:]
        except BaseException:  # A signal handler, most likely while a large payload was copied.
            if filled is not None:
                self._protocol.seal(filled.segment, filled.offset)
            raise
        kind = NOTIFIED + FLAG_TIMED if deadline_ns else NOTIFIED
        record = pack_record(kind, self._topics[name], segment, offset, length, crc, deadline_ns, sequence)
        self._parts.append(record + (records.pack_span_sealed(filled.segment, filled.offset) if filled else b""))
        self._sent.append(self._tags[self._read])
        self._read += 1
        return ((filled.length, length) if filled else None), True

    def _send(self, first: int) -> None:
        """Notify what is in memory, with its tags and its direction in the same write."""
        if not self._sent and not self._dropped:
            return
        begins, ends = self._direction.frame([])
        tagged = self._box.tagged(first, self._sent) if self._sent else []
        if self._dropped:
            tagged += self._box.dropped(self._dropped)
        data = b"".join([*tagged, begins, *self._parts, ends])
        self._parts, self._sent, self._dropped = [], [], []
        self.done = self._read
        self._transport.write(data)


def _shadow(raw: Raw) -> EventShadow:
    topic, block, *_ = raw
    id_bytes = unpack_header(block)[1]
    return EventShadow(topic, decode_id(block[HEADER_BYTES : HEADER_BYTES + id_bytes]))
