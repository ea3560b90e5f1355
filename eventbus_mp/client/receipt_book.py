"""What a process knows of its receipts: which tag each sequence number has, and of which tags it has heard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eventbus_mp.client.endpoint import ranges

__all__ = ["ReceiptBook"]

PAGE_SHIFT = 8
PAGE = 1 << PAGE_SHIFT


class _Page:
    """The tags of 256 sequence numbers that follow each other."""

    __slots__ = ("left", "tags")

    def __init__(self) -> None:
        self.tags: list[bytes] = [b""] * PAGE
        self.left = 0
        """How many of them are not confirmed."""


class ReceiptBook:
    """The tags that are not confirmed. Changed with the transport's lock held."""

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}
        self._told: dict[bytes, int] = {}
        """Tag -> sequence."""
        self._told_again: dict[bytes, list[int]] = {}
        """Of a tag that several events have: the others."""

    def note(self, first: int, tags: Sequence[bytes]) -> None:
        """The events from `first` on have these tags."""
        done = 0
        while done < len(tags):
            sequence = first + done
            start = sequence % PAGE
            part = tags[done : done + PAGE - start]
            number = sequence >> PAGE_SHIFT
            page = self._pages.get(number)
            if page is None:
                page = self._pages[number] = _Page()
            page.tags[start : start + len(part)] = part
            page.left += len(part)
            done += len(part)

    def tags_of(self, first: int, count: int) -> list[bytes]:
        """The tags of the events from `first` on, which are not confirmed."""
        start = first % PAGE
        found = self._pages[first >> PAGE_SHIFT].tags[start : start + count]
        while len(found) < count:
            found += self._pages[first + len(found) >> PAGE_SHIFT].tags[: count - len(found)]
        return found

    def tell(self, first: int, count: int) -> list[bytes]:
        """The tags of events of which this process hears now: from now on they can be confirmed."""
        tags = self.tags_of(first, count)
        told = dict(zip(tags, range(first, first + count), strict=True))
        if len(told) == count and self._told.keys().isdisjoint(told):
            self._told.update(told)
            return tags
        for sequence, tag in enumerate(tags, first):
            if self._told.setdefault(tag, sequence) != sequence:
                self._told_again.setdefault(tag, []).append(sequence)
        return tags

    def confirm(self, tags: Iterable[bytes]) -> list[tuple[int, int]]:
        """Forget tags that `tell` gave out: their ranges, (first sequence, count). Others are passed over."""
        told, sequences = self._told, []
        for tag in tags:
            sequence = told.pop(tag, None)
            if sequence is not None:
                sequences.append(sequence)
                if self._told_again:
                    sequences += self._told_again.pop(tag, ())
        sequences.sort()
        found = ranges(sequences)
        for first, count in found:
            self._forget(first, count)
        return found

    def _forget(self, first: int, count: int) -> None:
        while count:
            number, start = first >> PAGE_SHIFT, first % PAGE
            part = min(count, PAGE - start)
            page = self._pages[number]
            page.left -= part
            if page.left:
                page.tags[start : start + part] = [b""] * part
            else:
                del self._pages[number]
            first, count = first + part, count - part
