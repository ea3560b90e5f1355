"""The arena: the spans granted to this process, and how far the current one is filled.

Ordering spans from the manager and waiting for them is the caller's business (client/span_pool.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import NamedTuple

from eventbus_mp.geometry import CHUNK_BYTES, SHARED_SPAN_BYTES_MAX
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.memory.payload import new_tuple

__all__ = ["Arena", "GrantedSpan", "Slot"]

LARGE_BYTES = CHUNK_BYTES - 1
"""A larger event gets a span of its own. At this limit four events of the largest size fit into the span that smaller
events share. One byte more is a whole chunk: a span of its own then wastes nothing, and a small loan, which counts as
that byte more, takes one chunk and not two."""


class GrantedSpan(NamedTuple):
    """A span that this process may write: `length` bytes from `offset`. `backed`: there is memory behind it."""

    segment: int
    offset: int
    length: int
    backed: bool


class Slot(NamedTuple):
    """Room for one event: it is written to `view`, the whole segment, at `offset`.

    `filled` is the span that has no room left because of this event, if there is one. The caller seals it after it has
    notified the event, not before: a sealed span without unsettled events is recycled.
    """

    view: memoryview
    segment: int
    offset: int
    filled: GrantedSpan | None


class Arena:
    """Finds room for events in granted spans. It appends to one span until that is full, then takes the next.

                      add()                     reserve(small)                 filled
        manager ---> stock, by length ---> current span, shared by   ---> sealed by the caller
                      |       |            small events
                      |       |            +---------+---------+-- - - - - -+
                      |       |            | event   | event   |            |
                      |       |            +---------+---------+-- - - - - -+
                      |       |          offset           position         end
                      |       |
                      |       |                 reserve(large)
                      |       +----------> the event's own span ----------> sealed by the caller
                      |
                      +------------------> useless spans -- take_useless() --> returned to the manager
                         no memory for it

    - Only this process writes to its spans, so placing an event takes no lock and no question to another process: it
      is placed at `position`, which moves on by its length. Lengths are multiples of 64, hence every place is aligned.
    - A large event would leave much of a shared span unused, and would keep the small events beside it in memory for as
      long as it is read. So it gets a span of its own, which is recycled as soon as it is settled.
    - A span is backed by the first process that writes to it, when it is taken out of stock. If the kernel has no
      memory for it, nothing is written: the span becomes useless, and the caller returns it.

    `reserve`, and what appends at `position`, belong under the publisher's write lock. Spans are added by whichever
    thread reads the pipe; `prepare`, `take_useless`, `take_unused` and `granted` belong under the lock of the span
    pool. Between `reserve` and those there is no common lock, so what both touch changes in single steps.

    Args:
        mappings: The segments; spans are backed and mapped through it.
        span_bytes: The length of the spans that small events share.
    """

    def __init__(self, mappings: Mappings, span_bytes: int) -> None:
        self.span_bytes = span_bytes
        self.large_bytes = min(LARGE_BYTES, span_bytes // 4)
        """A larger event gets a span of its own."""
        self._mappings = mappings
        self._stock: dict[int, list[GrantedSpan]] = {}
        """Span length -> spans of that length that are not in use yet."""
        self._useless: deque[GrantedSpan] = deque()
        self._refusal: OSError | None = None
        """The reason of the latest useless span."""
        self._span: GrantedSpan | None = None
        self._is_closed = False
        # The current span. The publisher appends to it without a call here, as long as there is room: it writes an
        # event of up to `large_bytes` to `view` at `position`, and moves `position` on, which must not pass `end`.
        self.view = memoryview(b"")
        self.segment = 0
        self.position = 0
        self.end = 0

    def span_length(self, length: int) -> int:
        """The length of the span that an event of `length` bytes is placed in."""
        if length <= self.large_bytes:
            return self.span_bytes
        chunks = -(-length // CHUNK_BYTES)
        if length > SHARED_SPAN_BYTES_MAX:
            return chunks * CHUNK_BYTES
        # Rounded up to one of eight lengths between two powers of two, so that events of about one size can use each
        # other's spans. At most an eighth is wasted.
        step = max(1, (1 << chunks.bit_length()) // 16)
        return -(-chunks // step) * step * CHUNK_BYTES

    def stocked(self, span_length: int) -> int:
        """How many spans of this length are in stock."""
        return len(self._stock.get(span_length, ()))

    def add(self, span: GrantedSpan) -> None:
        """Take a granted span into stock; nothing happens when the arena is closed."""
        if self._is_closed:
            return
        self._stock.setdefault(span.length, []).append(span)

    def prepare(self, span_length: int) -> bool:
        """Back and map the next span of this length, so that `reserve` finds it ready.

        Returns False if the stock has none that the kernel gives memory and a mapping for; `take_useless` has those
        that were tried.
        """
        while self.stocked(span_length):
            taken = self._take(span_length)
            if taken is not None:
                self.add(taken[0]._replace(backed=True))
                return True
        return False

    def take_useless(self) -> tuple[list[GrantedSpan], OSError | None]:
        """Spans that the kernel gave no memory or mapping for, and the latest reason. The caller returns them."""
        spans = []
        while self._useless:
            spans.append(self._useless.popleft())
        refusal, self._refusal = self._refusal, None
        return spans, refusal

    def take_unused(self, kept: Container[int]) -> list[GrantedSpan]:
        """Take the spans for large events out of stock, but for those whose length is in `kept`. The caller returns
        them, because no event waits for one."""
        unused = []
        for length in [length for length in self._stock if length != self.span_bytes and length not in kept]:
            while span := self._pop(length):
                unused.append(span)
        return unused

    def reserve(self, length: int) -> Slot | None:
        """Room for an event of `length` bytes, a multiple of 64.

        Returns None if there is no room: the caller then adds a span of `span_length(length)` and asks again.
        """
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
        """Every span that this process may still write to, in stock, useless or current."""
        spans = [span for stock in self._stock.values() for span in stock] + list(self._useless)
        return [*spans, self._span] if self._span is not None else spans

    def close(self) -> None:
        """Drop all spans and the view of the current one; `reserve` finds no room from now on."""
        self._is_closed = True
        self.drop()

    def drop(self) -> None:
        """Forget all spans, which the caller has given back; `reserve` finds room when there are others."""
        self._stock.clear()
        self.view, self._span = memoryview(b""), None
        self.position = self.end = 0

    def _take(self, span_length: int) -> tuple[GrantedSpan, memoryview] | None:
        """The next span of this length, backed, and its segment; None if there is none, or the kernel refuses."""
        span = self._pop(span_length)
        if span is None:
            return None
        try:
            if not span.backed:
                self._mappings.back(span.segment, span.offset, span.length)
            return span, self._mappings.of(span.segment, span.length)
        except OSError as error:
            # The reason first: a thread that takes the span must find it.
            self._refusal = error
            self._useless.append(span)
            return None
        except BaseException:  # A signal handler has raised: backing a large span takes its time.
            self.add(span)
            raise

    def _pop(self, span_length: int) -> GrantedSpan | None:
        # In one step, since the thread that reads the pipe may be adding a span at this moment.
        try:
            return self._stock[span_length].pop()
        except LookupError:
            return None
