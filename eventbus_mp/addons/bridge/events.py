"""The parcels that carry payloads: many events, or a part of a large one. Payloads are not looked into."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import ClassVar, NamedTuple

from eventbus_mp.addons.bridge.fields import (
    ParcelError,
    each,
    fields_of,
    host_name,
    identity,
    integer,
    targets,
    time_unit,
    topic_name,
)
from eventbus_mp.addons.bridge.frame import Frame, framed

__all__ = ["ALIGNMENT", "BULK", "TIMED", "Entry", "Events", "Part"]

BULK = 1
"""A flag of an entry: its payload is not in the parcel; it is fetched from the origin's bridge."""
TIMED = 2
"""A flag of an entry: the event has a deadline."""
ALIGNMENT = 64
"""The length of a payload is a multiple of it."""

ENTRY_BYTES = 8 + 2 + 2 + 8 + 4
FLAGS_MAX = BULK | TIMED
COPIED_BYTES_MAX = 16 << 10
"""Payloads up to this length are copied out of a parcel, which takes less time than a view; so do events on the bus."""
PAYLOAD_BYTES_MAX = 1 << 48


class Entry(NamedTuple):
    """One event in `Events`."""

    sequence: int
    topic: int
    """Its place in `Events.topics`."""
    targets: int
    """Its place in `Events.target_sets`."""
    length: int
    """Of its payload, in bytes: a multiple of 64."""
    flags: int = 0


_as_entry: Callable[[tuple[int, ...]], Entry] = partial(tuple.__new__, Entry)
"""Makes an entry of a tuple without a line of Python."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events of one life of the bus of `host`, with their payloads.

    An empty target set means all subscribers that the topic has on the receiving host.
    """

    KIND: ClassVar[int] = 1

    host: str
    life: bytes
    unit: str
    """The time unit of the origin's bus."""
    topics: Sequence[str]
    target_sets: Sequence[Sequence[tuple[str, bytes]]]
    entries: Sequence[Entry]
    payloads: Sequence[bytes | memoryview]
    """One an entry, in their order; b"" for an entry with the flag `BULK`."""

    def encode(self) -> bytes:
        """The parcel's bytes. Payloads are copied once."""
        count = len(self.entries)
        fields = [self.host, self.life, self.unit, self.topics, self.target_sets, count]
        columns = chain.from_iterable(zip(*self.entries, strict=True))
        table = struct.pack(_table_of(count), *columns)
        body_bytes = len(table) + sum(map(len, self.payloads))
        return framed(self.KIND, fields, (table, *self.payloads), body_bytes)

    @staticmethod
    def read(frame: Frame, data: bytes) -> Events:
        """What `encode` made."""
        frame.check_layout()
        host, life, unit, topics, sets, count = fields_of(frame.fields(), "the head of events", 6)
        topics = each(topics, "its topics", topic_name)
        sets = each(sets, "its target sets", targets)
        count = integer(count, "its number of entries", most=(len(data) - frame.body_at) // ENTRY_BYTES)
        columns = struct.unpack_from(_table_of(count), data, frame.body_at)
        sequences, topic_at, targets_at, lengths, flags = (columns[count * i : count * (i + 1)] for i in range(5))
        if count:
            _check_columns(topic_at, targets_at, lengths, flags, len(topics), len(sets))
        rows = zip(sequences, topic_at, targets_at, lengths, flags, strict=True)
        entries = list(map(_as_entry, rows))
        here = lengths if not any(flags) else [0 if flag & BULK else n for n, flag in zip(lengths, flags, strict=True)]
        payloads = _slices(data, frame.body_at + ENTRY_BYTES * count, here)
        return Events(host_name(host), identity(life, "its life"), time_unit(unit), topics, sets, entries, payloads)


def _table_of(count: int) -> str:
    """The columns of a table of entries, in the order of `Entry`."""
    return f"<{count}Q{count}H{count}H{count}Q{count}I"


def _check_columns(
    topic_at: tuple[int, ...],
    targets_at: tuple[int, ...],
    lengths: tuple[int, ...],
    flags: tuple[int, ...],
    topics: int,
    sets: int,
) -> None:
    if max(topic_at) >= topics:
        raise ParcelError(f"an entry names topic {max(topic_at)} of {topics}")
    if max(targets_at) >= sets:
        raise ParcelError(f"an entry names target set {max(targets_at)} of {sets}")
    if max(flags) > FLAGS_MAX:
        raise ParcelError(f"an entry has the flags {max(flags):#x}, which this version does not know")
    for length in set(lengths):
        if length % ALIGNMENT or not ALIGNMENT <= length <= PAYLOAD_BYTES_MAX:
            raise ParcelError(f"a payload is {length} bytes long, which is not a multiple of {ALIGNMENT}, or too long")


def _slices(data: bytes, start: int, lengths: Sequence[int]) -> list[bytes | memoryview]:
    """The pieces of the rest of `data`, which they have to fill."""
    ends = list(accumulate(lengths, initial=start))
    if ends[-1] != len(data):
        raise ParcelError(f"its payloads are {ends[-1] - start} bytes long; {len(data) - start} are there")
    if max(lengths, default=0) > COPIED_BYTES_MAX:
        view = memoryview(data)
        return [view[at:end] for at, end in pairwise(ends)]
    return [data[at:end] for at, end in pairwise(ends)]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the parts of an event that is too large for one parcel; parts.py makes and assembles them.

    All parts but the last are equally long, a multiple of 64.
    """

    KIND: ClassVar[int] = 2

    host: str
    life: bytes
    unit: str
    sequence: int
    topic: str
    targets: Sequence[tuple[str, bytes]]
    index: int
    count: int
    total: int
    """The length of the whole payload, in bytes."""
    chunk: bytes | memoryview
    flags: int = 0
    """0, or `TIMED`."""

    @property
    def stride(self) -> int:
        """The length of all parts but the last, which any of them tells."""
        if self.index < self.count - 1 or self.count == 1:
            return len(self.chunk)
        return (self.total - len(self.chunk)) // (self.count - 1)

    def encode(self) -> bytes:
        """The parcel's bytes. The chunk is copied once."""
        fields = [self.host, self.life, self.unit, self.sequence, self.topic, self.targets]
        return framed(
            self.KIND, [*fields, self.index, self.count, self.total, self.flags], (self.chunk,), len(self.chunk)
        )

    @staticmethod
    def read(frame: Frame, data: bytes) -> Part:
        """What `encode` made."""
        frame.check_layout()
        host, life, unit, sequence, topic, for_whom, *numbers = fields_of(frame.fields(), "the head of a part", 10)
        index, count, total, flags = (integer(number, "a number of a part") for number in numbers)
        part = Part(
            host_name(host),
            identity(life, "its life"),
            time_unit(unit),
            integer(sequence, "its sequence number"),
            topic_name(topic, "its topic"),
            targets(for_whom, "its targets"),
            index,
            count,
            total,
            memoryview(data)[frame.body_at :],
            flags,
        )
        _check_part(part)
        return part


def _check_part(part: Part) -> None:
    length, stride = len(part.chunk), 0
    if part.flags & ~TIMED:
        raise ParcelError(f"a part has the flags {part.flags:#x}, which this version does not know")
    if part.total % ALIGNMENT or not ALIGNMENT <= part.total <= PAYLOAD_BYTES_MAX:
        raise ParcelError(f"an event in parts is {part.total} bytes long: not a multiple of {ALIGNMENT}, or too long")
    if part.index < part.count:
        stride = part.stride
    of_last = part.total - stride * (part.count - 1)
    is_last = part.index == part.count - 1
    if not 0 < of_last <= stride or stride % ALIGNMENT or length != (of_last if is_last else stride):
        raise ParcelError(f"part {part.index} of {part.count} is {length} bytes long, and the event {part.total}")
