"""Mappings: the segments that this process has mapped, and keeps."""

from __future__ import annotations

from eventbus_mp.memory.store import SegmentStore

__all__ = ["COPIED_BYTES_MAX", "Mappings", "MAPPINGS_MAX"]

COPIED_BYTES_MAX = 1 << 14
MAPPINGS_MAX = 256
"""Mappings of segments that may long be gone are dropped beyond this many; a segment is mapped again when needed."""


class Mappings(dict[int, memoryview]):
    """Segment number -> the whole segment, mapped when first asked for and kept.

    A gigabyte of events is some sixteen mappings. Asking for a segment that does not exist (any more) raises
    FileNotFoundError.
    """

    def __init__(self, prefix: str, store: SegmentStore) -> None:
        super().__init__()
        self._prefix = prefix
        self.store = store

    def __missing__(self, number: int) -> memoryview:
        view = self.store.attach(self.name(number))
        self._keep(number, view)
        return view

    def of(self, number: int, length: int) -> memoryview:
        """The segment of an event or a span of `length` bytes; asking for any that may be large goes here.

        A segment that is mostly this is its own and goes with it. It is not kept: a mapping keeps the memory, too.
        """
        view = self.get(number)
        if view is None:
            view = self.store.attach(self.name(number))
            if 2 * length <= len(view):
                self._keep(number, view)
        return view

    def _keep(self, number: int, view: memoryview) -> None:
        if len(self) >= MAPPINGS_MAX:
            del self[next(iter(self))]
        self[number] = view

    def name(self, number: int) -> str:
        return f"{self._prefix}{number}"
