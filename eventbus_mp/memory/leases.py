"""Leases: views into payloads, and which of them outlive the delivery that they came from.

A small payload is copied out, which costs less than keeping account of a view. A large one is read in place. A user may
slice, cast or reshape what was read, and drop the parts in any order; the memory must stay until the last one is gone.
So a ctypes array over the mapping exports the payload: everything derived from a view holds its exporter, and the
exporter's death is the end of the lease. (Numpy issue 23305 shows what happens to views without such an owner.)

When the process leaves the bus, and in a forked child, nobody keeps the memory for a view. So what it shows becomes the
process's own, in its place (page_copies.py).
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from eventbus_mp.errors import BusClosed, EventBusError
from eventbus_mp.events import Place
from eventbus_mp.locking import NonReentrantLock, reentered
from eventbus_mp.memory.page_copies import PageCopies, Shown

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


class _Lease(weakref.ref[ctypes.Array[ctypes.c_char]]):
    """A view's entry in the book: the reference to its exporter. `reported`: the manager knows of it, so its end has to
    be reported.

    Its callback gets the lease itself. So that can be the `append` of a deque, in which no signal handler runs. What
    a handler raises in a callback is printed and ignored, Ctrl-C included.
    """

    __slots__ = ("place", "reported")
    place: Place
    reported: bool

    def __new__(
        cls,
        exporter: ctypes.Array[ctypes.c_char],
        on_end: Callable[[_Lease], None],
        place: Place,
        reported: bool,
    ) -> _Lease:
        lease = super().__new__(cls, exporter, on_end)
        lease.place = place
        lease.reported = reported
        return lease

    def __init__(self, exporter: ctypes.Array[ctypes.c_char], on_end: Any, place: Place, reported: bool) -> None:
        super().__init__(exporter, on_end)  # type: ignore[call-arg]


class LeaseBook:
    """The payloads that this process has views into, and which of these the manager knows of.

    While a delivery is unsettled the manager keeps its payload anyway. So the manager hears of a lease only if the view
    outlives the delivery (`outliving`, before the delivery is settled), and only then of its end (`collect_ended`).

    Threads may call all methods at once. None of them waits for another process.

    Raises:
        UsageError: A method was called by a signal handler, or a `__del__`, in the middle of another one.
    """

    def __init__(self) -> None:
        self.open: dict[int, list[_Lease]] = {}
        """Sequence number of the event -> its leases."""
        self.ended: deque[_Lease] = deque()
        """Leases whose views are gone. Filled by weakref callbacks, in any thread at any moment: append only."""
        self.opened = 0
        """How many views were made."""
        self._is_closed = False
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
            BusClosed: The book was closed meanwhile.
        """
        exporter = _exporter(mapping, place)
        lease = _Lease(exporter, self.ended.append, place, reported)
        lock, me = self._lock, threading.get_ident()
        if lock.owner == me:
            raise reentered()
        # hot path: once for each large event. The lock is written out (locking.py), which saves 1 us.
        with lock.raw:
            lock.owner = me
            try:
                if self._is_closed:
                    raise BusClosed("the handle was closed while this thread read an event")
                self.open.setdefault(place.sequence, []).append(lease)
                self.opened += 1
            finally:
                lock.owner = 0
        return memoryview(exporter).cast("B")[: place.length].toreadonly()

    def outliving(self, sequences: Iterable[int]) -> list[Place]:
        """The leases of these events to report to the manager before their deliveries are settled.

        They count as reported from now on. The caller holds the connection's write lock from before this call until the
        report is written. Otherwise another thread could report the end of one of them first.
        """
        places = []
        with self._lock.held():
            for sequence in sequences:
                for lease in self.open.get(sequence, ()):
                    if not lease.reported and lease() is not None:
                        lease.reported = True
                        places.append(lease.place)
        return places

    def collect_ended(self) -> list[Place]:
        """Forget the leases whose views are gone: the places of those whose end has to be reported to the manager."""
        places = []
        with self._lock.held():
            while self.ended:
                lease = self.ended.popleft()
                leases = self.open.get(lease.place.sequence, [])
                # An error, such as one that a signal handler raises, may have come before `view` entered it.
                if lease in leases:
                    leases.remove(lease)
                if not leases:
                    self.open.pop(lease.place.sequence, None)
                if lease.reported:
                    places.append(lease.place)
        return places

    def refuse_reentry(self) -> None:
        """Raise `UsageError` in the middle of this thread's own call."""
        self._lock.refuse_reentry()

    def shown(self) -> list[Shown]:
        """What the views show that are open now. No lock: also for a thread that forks in the middle of a method."""
        return [
            (exporter, lease.place.length)
            for leases in list(self.open.values())
            for lease in list(leases)
            if (exporter := lease()) is not None
        ]

    def close(self, also: Iterable[Shown] = ()) -> None:
        """Make what the views show, and `also` this, the process's own: they stay as they are. `view` makes no more.

        Call it while the manager still keeps the memory. Blocks while it copies.

        Raises:
            EventBusError: There is no memory for it: views may still show shared memory.
        """
        with self._lock.held():
            self._is_closed = True
            shown = self.shown()
        try:
            PageCopies([*shown, *also]).put_in_place()
        except OSError as cause:
            raise EventBusError(
                f"the bus cannot be left: what views show of its events cannot be copied ({cause}); this process stays "
                "connected, so that they stay as they are"
            ) from cause

    def abandon(self, kept: Iterable[Shown] = ()) -> None:
        """In a forked child: make what the views show its own, but for what was `kept` already, before the fork.

        Raises:
            OSError: There is no memory for it.
        """
        self._lock.reset()
        self._is_closed = True
        known = {id(exporter) for exporter, _ in kept}
        PageCopies([shown for shown in self.shown() if id(shown[0]) not in known]).put_in_place()
