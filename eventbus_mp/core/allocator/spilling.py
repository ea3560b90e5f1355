"""Beyond the memory bound: spans in files, for those who have to write before anybody can go on.

A handler that publishes holds the event that it works on, and its process handles nothing else meanwhile. If it waits
for memory, it may wait for what only its own process would free. So it gets what it asks for: out of the memory, out
of the reserve and, when both are used up, out of segments that lie in files (`BusConfig.spill_dir`). A process maps
such a segment as it maps any other, so views, leases and loans work in it. Producers outside handlers wait until memory
and files together hold less than the memory bound; so what is in files comes back to memory by itself, as it is
settled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

from eventbus_mp.core.allocator.spans import Span, SpanTable
from eventbus_mp.geometry import SPILLED_FROM
from eventbus_mp.protocol.effects import Effect

__all__ = ["SpillingSpanTable"]


class SpillingSpanTable(SpanTable):
    """A `SpanTable` that goes on in files.

    Args:
        memory_bytes_max: The bound on memory.
        spill_bytes_max: The bound on files; 0: none are written.
    """

    def __init__(self, memory_bytes_max: int, spill_bytes_max: int) -> None:
        super().__init__(memory_bytes_max)
        self._spill = SpanTable(spill_bytes_max, reserve_bytes=0, numbered_from=SPILLED_FROM)

    @property
    def spilled_bytes(self) -> int:
        """Bytes of the spans in files."""
        return self._spill.used_bytes

    @property
    def segment_count(self) -> int:
        return super().segment_count + self._spill.segment_count

    def in_use(self) -> Iterator[Span]:
        return chain(self._in_use(), self._spill.in_use())

    def _find_elsewhere(self, segment: int, offset: int) -> Span | None:
        return self._spill.find(segment, offset)

    def allocate(self, length: int, writer: int, effects: list[Effect], *, reserve: bool = False) -> Span | None:
        """As `SpanTable.allocate`; with `reserve`, in a file if need be."""
        if not reserve and self._spill.used_bytes and self.total_bytes + length > self.memory_bytes_max:
            return None
        span = super().allocate(length, writer, effects, reserve=reserve)
        if span is None and reserve:
            span = self._spill.allocate(length, writer, effects)
        return span

    @property
    def total_bytes(self) -> int:
        """Bytes of all spans in use, wherever they are."""
        return self.used_bytes + self._spill.used_bytes

    def recycle(self, span: Span, effects: list[Effect]) -> None:
        """As `SpanTable.recycle`; the files are removed when nothing is in them any more."""
        if span.segment < SPILLED_FROM:
            super().recycle(span, effects)
            return
        self._spill.recycle(span, effects)
        if not self._spill.used_bytes:
            self._spill.drop_empty_segments(effects)

    def add_lease(self, span: Span) -> None:
        if span.segment < SPILLED_FROM:
            super().add_lease(span)
        else:
            self._spill.add_lease(span)

    def drop_lease(self, span: Span) -> None:
        if span.segment < SPILLED_FROM:
            super().drop_lease(span)
        else:
            self._spill.drop_lease(span)

    @property
    def all_leased_bytes(self) -> int:
        """Bytes of the spans with a lease, wherever they are."""
        return self.leased_bytes + self._spill.leased_bytes

    def written(self) -> dict[int, int]:
        """Link -> bytes of the spans in use that it writes or has written, wherever they are."""
        return dict(Counter(self.bytes_by_writer) + Counter(self._spill.bytes_by_writer))

    def check_invariants(self) -> None:
        super().check_invariants()
        self._spill.check_invariants()
