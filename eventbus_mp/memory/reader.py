"""Reading payloads: mappings that are kept, and the leases of views that outlive their delivery.

A small payload is copied out, which is cheaper than keeping books on it. A large one is read in place: its view is
exported by a ctypes array over the mapping, and the array's death, however many slices and reshapes later, is the end
of the lease. (The idea of a view whose exporter owns the lifetime: numpy issue 23305 shows what happens without.)
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque

from eventbus_mp.locking import Guard
from eventbus_mp.memory import segment
from eventbus_mp.model import Place

__all__ = ["LeaseBook", "Mappings"]

COPIED_BYTES_MAX = 1 << 14
MAPPINGS_MAX = 256
"""Mappings of segments that may long be gone are dropped beyond this many; a segment is mapped again when needed."""


class Mappings(dict[int, memoryview]):
    """Segment number -> the whole segment, mapped when first asked for and kept.

    A gigabyte of events is some sixteen mappings. Asking for a segment that does not exist (any more) raises
    FileNotFoundError.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def __missing__(self, number: int) -> memoryview:
        view = segment.attach(self.name(number))
        self._keep(number, view)
        return view

    def of(self, number: int, length: int) -> memoryview:
        """The segment of an event or a span of `length` bytes; asking for any that may be large goes here.

        A segment that is mostly this is its own and goes with it. It is not kept: a mapping keeps the memory, too.
        """
        view = self.get(number)
        if view is None:
            view = segment.attach(self.name(number))
            if 2 * length <= len(view):
                self._keep(number, view)
        return view

    def _keep(self, number: int, view: memoryview) -> None:
        if len(self) >= MAPPINGS_MAX:
            del self[next(iter(self))]
        self[number] = view

    def name(self, number: int) -> str:
        return f"{self._prefix}{number}"


def _exporter(mapping: memoryview, place: Place) -> ctypes.Array[ctypes.c_char]:
    """A ctypes array over at least the payload.

    Each length is a type of its own, which takes ten times as long to make as to use and goes with the collector only.
    So lengths are powers of two, as far as the segment goes.
    """
    length = 1 << (place.length - 1).bit_length()
    if place.offset + length > len(mapping):
        length = place.length
    return (ctypes.c_char * length).from_buffer(mapping, place.offset)


class _Lease:
    __slots__ = ("exporter", "place", "told")

    def __init__(self, place: Place, told: bool, exporter: weakref.ref[ctypes.Array[ctypes.c_char]]) -> None:
        self.place = place
        self.told = told
        self.exporter = exporter


class LeaseBook:
    """Which payloads this process has views into, and which of these the manager knows of.

    As long as a delivery is unsettled the manager keeps its payload anyway. So a lease is told only when a view
    outlives its delivery (`outliving`), and its end only then (`ended`).
    """

    def __init__(self) -> None:
        self.open: dict[int, list[_Lease]] = {}
        """By sequence."""
        self.ended: deque[_Lease] = deque()
        """Leases whose views are gone. Filled by weakref callbacks, in any thread at any moment: append only."""
        self._lock = Guard()
        """Guards `open`. A callback never takes it: it may run while this thread has it."""

    def view(self, mapping: memoryview, place: Place, told: bool) -> memoryview:
        """A read-only view of the payload whose lifetime is noted; `told`: the manager knows of it already."""
        exporter = _exporter(mapping, place)
        lease = _Lease(place, told, weakref.ref(exporter, lambda _: self.ended.append(lease)))
        with self._lock:
            self.open.setdefault(place.sequence, []).append(lease)
        return memoryview(exporter).cast("B")[: place.length].toreadonly()

    def outliving(self, sequence: int) -> list[Place]:
        """Leases to tell the manager before the delivery is settled; they count as told from now on."""
        with self._lock:
            leases = [item for item in self.open.get(sequence, ()) if not item.told and item.exporter() is not None]
            for lease in leases:
                lease.told = True
        return [lease.place for lease in leases]

    def collect_ended(self) -> list[Place]:
        """Forget leases whose views are gone; the places of those that the manager has to be told of."""
        places = []
        with self._lock:
            while self.ended:
                lease = self.ended.popleft()
                leases = self.open[lease.place.sequence]
                leases.remove(lease)
                if not leases:
                    del self.open[lease.place.sequence]
                if lease.told:
                    places.append(lease.place)
        return places
