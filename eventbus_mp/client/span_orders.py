"""Spans on order: what this process has asked the manager for, and how many to have ready ahead of need.

Pure: it counts and decides, and returns the records to send. Where granted spans are kept and mapped is the business of
`memory/arena.py`; who waits for them, that of `client/span_pool.py`.
"""

from __future__ import annotations

from collections.abc import Hashable

from eventbus_mp.geometry import SHARED_SPAN_BYTES_MAX
from eventbus_mp.protocol import records
from eventbus_mp.protocol.client_events import SpanGranted
from eventbus_mp.protocol.messages import SPAN_CANCELLED

__all__ = ["LARGE_AHEAD", "LOANS_AHEAD", "SpanOrders"]

LARGE_AHEAD, LARGE_AHEAD_BYTES = 2, 8 << 20
"""Spans kept ready for large events: this many, or more as long as they make up to this many bytes. The producer writes
into them while others are on their way, and until the readers of the first have settled."""
LOANS_AHEAD = 4
"""Spans kept ready for loans, into which nothing is copied: of 16 MiB each, they went 1.4 times as fast as with two.
Where a copy is made, more spans only mean more memory for the cache: 10 % slower."""
AHEAD_DIVISOR = 8
"""The spans that one process keeps ready are at most this fraction of the bus's memory: others need it as well."""


class SpanOrders:
    """The orders of one process. An order is made by an arena, any hashable thing, for a span of a length.

    Args:
        memory_bytes_max: The bus's payload memory.
    """

    def __init__(self, memory_bytes_max: int) -> None:
        self._memory_bytes_max = memory_bytes_max
        self._open: dict[tuple[Hashable, int], int] = {}
        """(arena, span length) -> how many are on order."""
        self._impossible: set[int] = set()
        """Span lengths that the bus's memory can never hold."""
        self._large_length = self._large_count = 0
        """The span of the latest large event, and how many in a row took one like it."""

    def place(
        self, arena: Hashable, span_length: int, urgency: int, count: int = 1, subscriber: int = 0, topic: int = 0
    ) -> bytes:
        """Order `count` spans, for the handler of a subscriber that publishes to a topic: the records to send."""
        self._open[arena, span_length] = self.count(arena, span_length) + count
        return records.pack_span_wanted(span_length, urgency, subscriber, topic) * count

    def count(self, arena: Hashable, span_length: int) -> int:
        """How many spans of this length are on order for the arena."""
        return self._open.get((arena, span_length), 0)

    def is_impossible(self, span_length: int) -> bool:
        """Whether the manager has said that it can never grant a span of this length."""
        return span_length in self._impossible

    def granted(self, grant: SpanGranted, arenas: list[Hashable]) -> Hashable | None:
        """Close the order that this grant answers: the arena that made it, the first one of `arenas` that waits.

        A grant without a segment is a refusal: for now (it answers an order ahead), or for ever (`backed`). None: there
        is not such an order; a span that came with it has to be given back.
        """
        if not grant.segment and grant.backed:
            self._impossible.add(grant.length)
        for arena in arenas:
            if self.count(arena, grant.length):
                self._open[arena, grant.length] -= 1
                return arena
        return None

    def cancel(self, span_length: int) -> bytes:
        """Nobody waits any more for spans of this length: the record to send. Another thread that does orders again."""
        for key in self._open:
            if key[1] == span_length:
                self._open[key] = 0
        return records.pack_span_wanted(span_length, SPAN_CANCELLED)

    def forget(self) -> None:
        """The manager was replaced: the answers to what is on order may have died with the one before."""
        self._open.clear()

    def changes_size(self, span_length: int) -> bool:
        """A large event took a span of this length: whether the one before took another length."""
        if span_length == self._large_length:
            return False
        self._large_length, self._large_count = span_length, 0
        return True

    def large_ahead(self, span_length: int, at_least: int) -> int:
        """How many spans to keep ready after a large event took one of `span_length`.

        None for a single event, nor for spans that are a large share of the memory. Call `changes_size` before.
        """
        self._large_count += 1
        if self._large_count == 1 or span_length > SHARED_SPAN_BYTES_MAX:
            return 0
        wanted = max(at_least, LARGE_AHEAD_BYTES // span_length)
        return min(wanted, self._large_count, self._memory_bytes_max // AHEAD_DIVISOR // span_length)
