"""The table of all batches: by the bucket of their sequence numbers, and in the order in which they began."""

from __future__ import annotations

from collections.abc import Iterator

from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT

__all__ = ["BatchTable"]


class BatchTable:
    """All batches that have an unsettled event or a late reader, by bucket, and the oldest first."""

    def __init__(self) -> None:
        self._by_bucket: dict[int, list[EventBatch]] = {}
        self._in_order: dict[EventBatch, None] = {}
        self.newest: EventBatch | None = None
        """The only one that may grow: so the order of batches is the order of events."""

    def __iter__(self) -> Iterator[EventBatch]:
        return iter(self._in_order)

    def __len__(self) -> int:
        return len(self._in_order)

    def add(self, batch: EventBatch) -> None:
        """Add a batch, which is the newest from now on."""
        self._by_bucket.setdefault(batch.first >> SEQUENCE_BUCKET_SHIFT, []).append(batch)
        self._in_order[batch] = None
        self.newest = batch

    def remove(self, batch: EventBatch) -> None:
        """Forget a batch of which nothing is unsettled or being read."""
        bucket = batch.first >> SEQUENCE_BUCKET_SHIFT
        batches = self._by_bucket[bucket]
        batches.remove(batch)
        if not batches:
            del self._by_bucket[bucket]
        del self._in_order[batch]
        if self.newest is batch:
            self.newest = None

    def in_bucket(self, bucket: int) -> tuple[EventBatch, ...] | list[EventBatch]:
        """The batches with sequence numbers of this bucket; dead letters have those of their events."""
        return self._by_bucket.get(bucket, ())

    def find(self, sequence: int) -> list[tuple[EventBatch, int]]:
        """(batch, bit) of the event with this sequence, and of its dead letter, where they are unsettled."""
        found = []
        for batch in self.in_bucket(sequence >> SEQUENCE_BUCKET_SHIFT):
            bit = batch.between(sequence, sequence)
            if bit & batch.any_unsettled():
                found.append((batch, bit))
        return found
