"""From events of this bus to the letters that carry them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventbus_mp import RawEvent
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.parcels import TIMED, Entry, Events, Part
from eventbus_mp.addons.bridge.parts import split

__all__ = ["Packer", "Packet"]

PARCEL_EVENTS = 512
PARCEL_BYTES = 256 << 10

Packet = tuple[RawEvent, tuple[Target, ...]]
"""An event, and the subscribers of one host that it is for."""


class Packer:
    """Args:
    host: This host.
    life: That of its bus.
    unit: The bus's time unit.
    part_bytes: How long a part of a large event may be.
    """

    def __init__(self, host: str, life: bytes, unit: str, part_bytes: int) -> None:
        self._host = host
        self._life = life
        self._unit = unit
        self._part_bytes = part_bytes

    def letters(self, packets: Iterable[Packet]) -> Iterator[bytes]:
        """The letters for these events, in their order."""
        batch: list[Packet] = []
        nbytes = 0
        for packet in packets:
            length = len(packet[0].payload)
            if batch and (len(batch) == PARCEL_EVENTS or nbytes + length > PARCEL_BYTES):
                yield self._parcel(batch)
                batch, nbytes = [], 0
            if length > self._part_bytes:
                yield from self._parts(packet)
            else:
                batch.append(packet)
                nbytes += length
        if batch:
            yield self._parcel(batch)

    def _parcel(self, batch: list[Packet]) -> bytes:
        topics: dict[str, int] = {}
        sets: dict[tuple[Target, ...], int] = {}
        entries = [
            Entry(
                event.sequence,
                topics.setdefault(event.topic, len(topics)),
                sets.setdefault(targets, len(sets)),
                len(event.payload),
                TIMED if event.deadline_ns else 0,
            )
            for event, targets in batch
        ]
        payloads = [event.payload for event, _ in batch]
        return Events(self._host, self._life, self._unit, list(topics), list(sets), entries, payloads).encode()

    def _parts(self, packet: Packet) -> Iterator[bytes]:
        event, targets = packet
        length, flags = len(event.payload), TIMED if event.deadline_ns else 0
        whole = Part(
            self._host, self._life, self._unit, event.sequence, event.topic, targets, 0, 1, length, event.payload, flags
        )
        for part in split(whole, self._part_bytes):
            yield part.encode()
