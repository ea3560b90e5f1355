"""Mappings: the segments that this process has mapped, by number."""

from __future__ import annotations

from eventbus_mp.memory.store import SegmentStore

__all__ = ["COPIED_BYTES_MAX", "Mappings", "MAPPINGS_MAX"]

COPIED_BYTES_MAX = 1 << 14
"""A payload of at most this length is copied out; a larger one is read in place, through a view."""
MAPPINGS_MAX = 256
"""Beyond this many the oldest mapping is dropped, since its segment may be long gone; it is mapped again if needed."""


class Mappings(dict[int, memoryview]):
    """Segment number -> the whole segment, mapped at the first access and kept. A gigabyte is sixteen mappings.

    It is a dict because a reader looks a segment up for every event, and a dict does that without a call in Python.
    Threads may use it at once: two that map a segment at the same moment both get a mapping, and one of them is kept.

    Args:
        prefix: The beginning of the segments' names; the number follows.
        store: Where the segments are.

    Raises:
        FileNotFoundError: On access: there is no segment of this number, or not any more.
        OSError: On access: the kernel refuses the mapping.
    """

    def __init__(self, prefix: str, store: SegmentStore) -> None:
        super().__init__()
        self.store = store
        self._prefix = prefix
        self._is_closed = False

    def __missing__(self, number: int) -> memoryview:
        view = self.store.attach(self._name(number))
        self._keep(number, view)
        return view

    def of(self, number: int, length: int) -> memoryview:
        """The segment of an event or a span of `length` bytes. Callers whose length may be large use this.

        A segment of which the event or span is the greater part was made for it alone, and is removed with it. Such a
        mapping is not kept here, because it would keep the memory of the removed segment.

        Raises:
            FileNotFoundError, OSError: As a lookup.
        """
        view = self.get(number)
        if view is None:
            view = self.store.attach(self._name(number))
            if 2 * length <= len(view):
                self._keep(number, view)
        return view

    def back(self, number: int, offset: int, length: int) -> None:
        """`SegmentStore.back`; the segment is not mapped by it."""
        self.store.back(self._name(number), offset, length)

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`SegmentStore.read`; the segment is not mapped by it."""
        return self.store.read(self._name(number), offset, length)

    def _keep(self, number: int, view: memoryview) -> None:
        while len(self) >= MAPPINGS_MAX:
            # Another thread may drop the same mapping at this moment: the keys are copied in one step, and a key that
            # is gone already is not an error.
            for oldest in list(self)[:1]:
                self.pop(oldest, None)
        self[number] = view
        if self._is_closed:  # Looked at last: another thread may be closing at this moment.
            self.pop(number, None)

    def close(self) -> None:
        """Keep no mapping from now on; those that views need go with the views."""
        self._is_closed = True
        self.clear()

    def _name(self, number: int) -> str:
        return f"{self._prefix}{number}"
