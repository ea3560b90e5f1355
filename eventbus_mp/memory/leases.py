"""Leases: views into payloads, and which of them outlive the delivery that they came from.

A small payload is copied out, which costs less than keeping account of a view. A large one is read in place. A user may
slice, cast or reshape what was read, and drop the parts in any order; the memory must stay until the last one is gone.
So a ctypes array over the mapping exports the payload: everything derived from a view holds its exporter, and the
exporter's death is the end of the lease. (Numpy issue 23305 shows what happens to views without such an owner.)
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque

from eventbus_mp.events import Place
from eventbus_mp.locking import NonReentrantLock

__all__ = ["LeaseBook"]


def _exporter(mapping: memoryview, place: Place) -> ctypes.Array[ctypes.c_char]:
    """A ctypes array over the payload, and over some of what follows it.

    For ctypes each length is a type of its own. Such a type takes ten times as long to make as to use, and only the
    garbage collector frees it. So lengths are powers of two, which are few; the caller slices. Where the segment ends
    before the power of two does, the array has the payload's own length.
    """
    length = 1 << (place.length - 1).bit_length()
    if place.offset + length > len(mapping):
        length = place.length
    return (ctypes.c_char * length).from_buffer(mapping, place.offset)


class _Lease:
    """A view's entry in the book. `reported`: the manager knows of it, so its end has to be reported."""

    __slots__ = ("exporter", "place", "reported")

    def __init__(self, place: Place, reported: bool, exporter: weakref.ref[ctypes.Array[ctypes.c_char]]) -> None:
        self.place = place
        self.reported = reported
        self.exporter = exporter


class LeaseBook:
    """The payloads that this process has views into, and which of these the manager knows of.

    While a delivery is unsettled the manager keeps its payload anyway. So the manager hears of a lease only if the view
    outlives the delivery (`outliving`, before the delivery is settled), and only then of its end (`collect_ended`).

    Threads may call all methods at once. None of them waits for another process.

    Raises:
        UsageError: A method was called by a signal's handler, or a `__del__`, in the middle of another one.
    """

    def __init__(self) -> None:
        self.open: dict[int, list[_Lease]] = {}
        """Sequence number of the event -> its leases."""
        self.ended: deque[_Lease] = deque()
        """Leases whose views are gone. Filled by weakref callbacks, in any thread at any moment: append only."""
        self._lock = NonReentrantLock()
        """Guards `open`. A callback never takes it, since it may run in a thread that has it."""

    def view(self, mapping: memoryview, place: Place, reported: bool) -> memoryview:
        """A read-only view of the payload at `place`, which is a lease from now on.

        Args:
            mapping: The whole segment.
            place: Where the payload is.
            reported: Whether the manager knows of the lease already, because it was asked for it.

        Raises:
            ValueError: The place is not inside the segment.
        """
        exporter = _exporter(mapping, place)
        lease = _Lease(place, reported, weakref.ref(exporter, lambda _: self.ended.append(lease)))
        with self._lock.held():
            self.open.setdefault(place.sequence, []).append(lease)
        return memoryview(exporter).cast("B")[: place.length].toreadonly()

    def outliving(self, sequence: int) -> list[Place]:
        """The leases of this event to report to the manager before the delivery is settled.

        They count as reported from now on. The caller holds the connection's write lock from before this call until the
        report is written. Otherwise another thread could report the end of one of them first.
        """
        with self._lock.held():
            leases = [item for item in self.open.get(sequence, ()) if not item.reported and item.exporter() is not None]
            for lease in leases:
                lease.reported = True
        return [lease.place for lease in leases]

    def collect_ended(self) -> list[Place]:
        """Forget the leases whose views are gone: the places of those whose end has to be reported to the manager."""
        places = []
        with self._lock.held():
            while self.ended:
                lease = self.ended.popleft()
                leases = self.open.get(lease.place.sequence, [])
                # An error, such as one that a signal's handler raises, may have come before `view` entered it.
                if lease in leases:
                    leases.remove(lease)
                if not leases:
                    self.open.pop(lease.place.sequence, None)
                if lease.reported:
                    places.append(lease.place)
        return places
