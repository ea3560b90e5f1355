"""What is kept for receipts (receipts.py): the box of a name, and its pages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits

__all__ = ["Fate", "ReceiptBox", "ReceiptBoxes", "ReceiptPage"]

Fate = tuple[tuple[tuple[str, bytes, str], ...], int]
"""The keys of the subscribers that got an event, and a mask of those of them that completed it; the others skipped
it."""


class ReceiptBoxes:
    """All boxes."""

    __slots__ = ("by_name", "due", "serial")

    def __init__(self) -> None:
        self.by_name: dict[str, ReceiptBox] = {}
        self.serial = 0
        self.due: dict[ReceiptBox, None] = {}
        """Those that may have something to tell to a process that waits for it, at the end of the message."""

    def add(self, name: str) -> ReceiptBox:
        """A box of this name, which has none yet."""
        self.serial += 1
        box = self.by_name[name] = ReceiptBox(self.serial, name)
        return box

    def drop_if_unused(self, box: ReceiptBox) -> None:
        """Forget a name that nobody has open and under which nothing is kept."""
        if not box.link and not box.count:
            del self.by_name[box.name]


class ReceiptBox:
    """The receipts of one name."""

    __slots__ = ("count", "link", "name", "number", "pages", "taker", "untold")

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.link = 0
        """The process that has the name open; 0: none has."""
        self.pages: dict[int, ReceiptPage] = {}
        """By bucket of sequence numbers; a bucket belongs to one link. In the order in which they were begun."""
        self.count = 0
        """Tags in all pages that are not confirmed."""
        self.untold: dict[ReceiptPage, None] = {}
        """Pages with something settled that was not told."""
        self.taker: tuple[int, int] | None = None
        """The request that is answered when there is something to tell, and how many events that may be."""

    def pages_between(self, first: int, last: int) -> Iterator[ReceiptPage]:
        """The pages that have sequence numbers from `first` to `last`."""
        for bucket in range(first >> SEQUENCE_BUCKET_SHIFT, (last >> SEQUENCE_BUCKET_SHIFT) + 1):
            page = self.pages.get(bucket)
            if page is not None:
                yield page

    def pages_from(self, skip: int) -> Iterator[ReceiptPage]:
        """The pages behind the first `skip`."""
        return islice(self.pages.values(), skip, None)

    def tell_again(self) -> None:
        """Another process has opened the name: it hears of everything that is settled."""
        for page in self.pages.values():
            page.told = 0
            if page.settled:
                self.untold[page] = None


class ReceiptPage:
    """The tags of one bucket of sequence numbers. Bit `i` of a mask stands for the event `first + i`."""

    __slots__ = ("box", "coming", "first", "known", "settled", "tags", "told", "unsettled", "widths")

    def __init__(self, box: ReceiptBox, first: int) -> None:
        self.box = box
        self.first = first
        self.known = 0
        """All that were ever tagged in this page."""
        self.widths = b""
        """How many bytes the tag of each of them has, in their order."""
        self.tags = b""
        """Their tags, one behind the other; those that are confirmed go with the page."""
        self.coming = 0
        self.unsettled = 0
        self.settled: dict[Fate, int] = {}
        self.told = 0

    @property
    def all_settled(self) -> int:
        """The mask of all that is settled, whatever its fate."""
        union = 0
        for mask in self.settled.values():
            union |= mask
        return union

    @property
    def kept(self) -> int:
        """The mask of all that is not confirmed."""
        return self.coming | self.unsettled | self.all_settled

    @property
    def is_told(self) -> bool:
        """Whether there is nothing to tell."""
        return all(not mask & ~self.told for mask in self.settled.values())

    def between(self, first: int, last: int) -> int:
        """The mask of the sequence numbers from `first` to `last` that are in this bucket."""
        low, high = max(first - self.first, 0), min(last - self.first + 1, 1 << SEQUENCE_BUCKET_SHIFT)
        return (1 << high) - (1 << low) if low < high else 0

    def tags_of(self, mask: int) -> tuple[bytes, bytes]:
        """The widths and the tags of some of those that are known."""
        if mask == self.known:
            return self.widths, self.tags
        widths, parts, end = bytearray(), [], 0
        for width, index in zip(self.widths, bits(self.known), strict=True):
            end += width
            if mask >> index & 1:
                widths.append(width)
                parts.append(self.tags[end - width : end])
        return bytes(widths), b"".join(parts)
