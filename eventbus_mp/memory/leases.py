"""Reading payloads: mappings that are kept, and the leases of views that outlive their delivery.

A small payload is copied out, which is cheaper than keeping books on it. A large one is read in place: its view is
exported by a ctypes array over the mapping, and the array's death, however many slices and reshapes later, is the end
of the lease. (The idea of a view whose exporter owns the lifetime: numpy issue 23305 shows what happens without.)
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque

from eventbus_mp.events import Place
from eventbus_mp.locking import NonReentrantLock

__all__ = ["LeaseBook"]


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
    __slots__ = ("exporter", "place", "reported")

    def __init__(self, place: Place, reported: bool, exporter: weakref.ref[ctypes.Array[ctypes.c_char]]) -> None:
        self.place = place
        self.reported = reported
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
        self._lock = NonReentrantLock()
        """Guards `open`. A callback never takes it: it may run while this thread has it."""

    def view(self, mapping: memoryview, place: Place, reported: bool) -> memoryview:
        """A read-only view of the payload whose lifetime is noted; `told`: the manager knows of it already."""
        exporter = _exporter(mapping, place)
        lease = _Lease(place, reported, weakref.ref(exporter, lambda _: self.ended.append(lease)))
        with self._lock.held():
            self.open.setdefault(place.sequence, []).append(lease)
        return memoryview(exporter).cast("B")[: place.length].toreadonly()

    def outliving(self, sequence: int) -> list[Place]:
        """Leases to tell the manager before the delivery is settled; they count as told from now on."""
        with self._lock.held():
            leases = [item for item in self.open.get(sequence, ()) if not item.reported and item.exporter() is not None]
            for lease in leases:
                lease.reported = True
        return [lease.place for lease in leases]

    def collect_ended(self) -> list[Place]:
        """Forget leases whose views are gone; the places of those that the manager has to be told of."""
        places = []
        with self._lock.held():
            while self.ended:
                lease = self.ended.popleft()
                leases = self.open[lease.place.sequence]
                leases.remove(lease)
                if not leases:
                    del self.open[lease.place.sequence]
                if lease.reported:
                    places.append(lease.place)
        return places
