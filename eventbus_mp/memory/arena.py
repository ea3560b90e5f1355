"""The arena: the spans lent to this process, and how far the current one is filled.

It appends to one span until that is full, then takes the next from its stock. Asking the manager for spans and waiting
for them is the caller's business. Small events share a span; a large one gets a span of its own.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from eventbus_mp.geometry import CHUNK_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.memory.payload import new_tuple

__all__ = ["Arena", "GrantedSpan", "Slot"]

LARGE_BYTES = CHUNK_BYTES - 1
"""Beyond this an event gets a span of its own: four of this size fit into the span that smaller ones share, and what
is one byte larger, as a small loan counts, takes one block and not two."""


class GrantedSpan(NamedTuple):
    """A span that this process may write: `length` bytes from `offset`."""

    segment: int
    offset: int
    length: int
    backed: bool


class Slot(NamedTuple):
    """Where an event goes; `filled` is a span that got full by it, to be sealed once the event is notified."""

    view: memoryview
    segment: int
    offset: int
    filled: GrantedSpan | None


class Arena:
    def __init__(self, mappings: Mappings, span_bytes: int) -> None:
        self.large_bytes = min(LARGE_BYTES, span_bytes // 4)
        """A larger event gets a span of its own."""
        self._mappings = mappings
        self.span_bytes = span_bytes
        self._stock: dict[int, list[GrantedSpan]] = {}
        self._useless: list[GrantedSpan] = []
        self._refusal: OSError | None = None
        self._span: GrantedSpan | None = None
        # The publisher appends here without a call, as long as it fits.
        self.view = memoryview(b"")
        self.segment = 0
        self.position = 0
        self.end = 0

    def span_length(self, length: int) -> int:
        """The size of the span that an event of `length` bytes goes to."""
        if length <= self.large_bytes:
            return self.span_bytes
        chunks = -(-length // CHUNK_BYTES)
        if length > SHARED_SPAN_BYTES_MAX:
            return chunks * CHUNK_BYTES
        # Eight sizes from one power of two to the next: so events of about one size find spans of the same one ready.
        step = max(1, (1 << chunks.bit_length()) // 16)
        return -(-chunks // step) * step * CHUNK_BYTES

    def stocked(self, span_length: int) -> int:
        return len(self._stock.get(span_length, ()))

    def add(self, span: GrantedSpan) -> None:
        """Take a granted span into stock."""
        self._stock.setdefault(span.length, []).append(span)

    def prepare(self, span_length: int) -> bool:
        """Back and map the next span in stock, so that `reserve` finds it ready; False: there is none that works."""
        while self.stocked(span_length):
            taken = self._take(span_length)
            if taken is not None:
                self.add(taken[0]._replace(backed=True))
                return True
        return False

    def take_useless(self) -> tuple[list[GrantedSpan], OSError | None]:
        """Spans that the kernel gave no memory or mapping for, and the latest reason: to be given back."""
        found = self._useless, self._refusal
        self._useless, self._refusal = [], None
        return found

    def take_unused(self, kept: Container[int]) -> list[GrantedSpan]:
        """Take spans for large events out of stock, of all lengths but the `kept` ones: nobody is waiting for them."""
        unused = []
        for length in [length for length in self._stock if length != self.span_bytes and length not in kept]:
            while span := self._pop(length):
                unused.append(span)
        return unused

    def reserve(self, length: int) -> Slot | None:
        """Room for an event of `length` bytes, or None when a span of `span_length(length)` must be had first."""
        if length > self.large_bytes:
            taken = self._take(self.span_length(length))
            return Slot(taken[1], taken[0].segment, taken[0].offset, taken[0]) if taken else None
        filled = None
        if self.position + length > self.end:
            taken = self._take(self.span_bytes)
            if taken is None:
                return None
            span, self.view = taken
            filled, self._span, self.segment = self._span, span, span.segment
            self.position, self.end = span.offset, span.offset + span.length
        offset = self.position
        self.position += length
        return new_tuple(Slot, (self.view, self.segment, offset, filled))

    def granted(self) -> list[GrantedSpan]:
        """Every span that this process may still write."""
        spans = [span for stock in self._stock.values() for span in stock] + self._useless
        return [*spans, self._span] if self._span is not None else spans

    def close(self) -> None:
        """Let go of all memory; `reserve` finds none from now on."""
        self._stock.clear()
        self.view, self._span = memoryview(b""), None
        self.position = self.end = 0

    def _take(self, span_length: int) -> tuple[GrantedSpan, memoryview] | None:
        """The next span in stock, with memory behind it, and its segment."""
        span = self._pop(span_length)
        if span is None:
            return None
        try:
            if not span.backed:
                self._mappings.store.back(self._mappings.name(span.segment), span.offset, span.length)
            return span, self._mappings.of(span.segment, span.length)
        except OSError as error:
            self._useless.append(span)
            self._refusal = error
            return None

    def _pop(self, span_length: int) -> GrantedSpan | None:
        # In one step: whoever reads the pipe may be adding one.
        try:
            return self._stock[span_length].pop()
        except LookupError:
            return None
