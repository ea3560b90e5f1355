"""Receipts: what became of events, kept under a name until a process of that name confirms that it knows.

A producer tags its events (`requests.Tag`) in the same write that notifies them. What is kept of each is its tag and,
once it is settled, who got it and who completed it: its fate. That outlives the producer. A process that opens the name
later hears again of what was not confirmed, and learns what is still unsettled.

Nothing here is kept for one event alone: a page has the tags of one bucket of sequence numbers, and masks that say
which of them are where.

    coming     tagged, and the record has not come: it is behind the tag in the pipe, or its producer died in between
    unsettled  a batch has it, with this page in its `tagged`
    settled    by fate, until it is confirmed
    told       of the settled: the process that has the name open knows it
"""

from __future__ import annotations

from collections.abc import Iterator

from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits, lowest, runs
from eventbus_mp.core.receipt_boxes import Fate, ReceiptBox, ReceiptPage
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import SEQUENCE_LINK_SHIFT, TAG_BYTES_MAX, TAGS_MAX
from eventbus_mp.protocol.effects import Reply

__all__ = [
    "answer_receipts",
    "close_box",
    "confirm",
    "kept_pages",
    "note_arrived",
    "note_settled",
    "ranges_of",
    "release_boxes",
    "tag",
    "tell",
]

NOBODY: Fate = ((), 0)
"""The fate of an event that nobody is subscribed to."""


# --- tags and their events ---


def tag(
    state: BusState, link: LinkState, box: ReceiptBox, first: int, widths: bytes, tags: bytes, dropped: int
) -> None:
    """The next events of this link, from `first` on, have these tags. The last `dropped` ones are not sent, because
    nobody is subscribed to them.

    Raises:
        ProtocolError: They cannot be tagged so.
    """
    count = len(widths)
    last = first + count - 1
    if not 0 < count <= TAGS_MAX or not 0 <= dropped <= count or not 0 < min(widths) <= max(widths) <= TAG_BYTES_MAX:
        raise ProtocolError(f"it tagged {count} events, {dropped} of which it dropped")
    if sum(widths) != len(tags) or not link.last_sequence < first or last >> SEQUENCE_LINK_SHIFT != link.number:
        raise ProtocolError(f"it tagged {count} events from {first:#x} on, behind {link.last_sequence:#x}")
    if box.count + count > state.config.receipts_max:
        raise ProtocolError(f"it has over {state.config.receipts_max} receipts under the name {box.name!r}")
    here = min(count, (first | (1 << SEQUENCE_BUCKET_SHIFT) - 1) + 1 - first)
    split = sum(widths[:here])
    _tag_page(link, box, first, widths[:here], tags[:split])
    if here < count:
        _tag_page(link, box, first + here, widths[here:], tags[split:])
    for page in box.pages_between(last - dropped + 1, last) if dropped else ():
        never = page.coming & page.between(last - dropped + 1, last)
        page.coming &= ~never
        if not page.coming:
            del link.tagged[page]
        _settle(state, page, never, NOBODY)


def _tag_page(link: LinkState, box: ReceiptBox, first: int, widths: bytes, tags: bytes) -> None:
    bucket = first >> SEQUENCE_BUCKET_SHIFT
    page = box.pages.get(bucket)
    if page is None:
        page = box.pages[bucket] = ReceiptPage(box, bucket << SEQUENCE_BUCKET_SHIFT)
    start = first - page.first
    if page.known >> start:
        raise ProtocolError(f"it tagged {first:#x} twice")
    mask = ((1 << len(widths)) - 1) << start
    page.known |= mask
    page.coming |= mask
    page.widths += widths
    page.tags += tags
    box.count += len(widths)
    link.tagged[page] = None


def note_arrived(state: BusState, link: LinkState, batch: EventBatch | None, first: int, count: int) -> None:
    """Events of a link that has tags for events to come are in this batch now; None: nobody is subscribed to them."""
    for page in tuple(link.tagged):
        arrived = page.coming & page.between(first, first + count - 1)
        # Records of one link come in the order of their numbers: what this one has left out never comes.
        passed = page.coming & page.between(page.first, first - 1)
        page.coming &= ~(arrived | passed)
        if not page.coming:
            del link.tagged[page]
        if batch is None:
            _settle(state, page, arrived, NOBODY)
        elif arrived:
            page.unsettled |= arrived
            if page not in batch.tagged:
                batch.tagged += (page,)
        if passed:
            _forget(state, page, passed)


def note_settled(state: BusState, batch: EventBatch, mask: int) -> None:
    """These events of a batch that has tags are settled."""
    keys = tuple([subscriber.key for subscriber in batch.route.subscribers])
    for page in batch.tagged:
        shift = batch.first - page.first
        ours = mask & page.unsettled >> shift
        if ours:
            page.unsettled &= ~(ours << shift)
            for part, rows in _by_outcome(batch, ours):
                _settle(state, page, part << shift, (keys, rows))


def _by_outcome(batch: EventBatch, mask: int) -> list[tuple[int, int]]:
    """(mask, rows): the events that were completed by the same subscribers, and the rows of these as a mask."""
    groups = [(mask, 0)]
    for row, completed in enumerate(batch.completed):
        parts = []
        for part, rows in groups:
            if done := part & completed:
                parts.append((done, rows | 1 << row))
            if skipped := part & ~completed:
                parts.append((skipped, rows))
        groups = parts
    return groups


def _settle(state: BusState, page: ReceiptPage, mask: int, fate: Fate) -> None:
    if not mask:
        return
    page.settled[fate] = page.settled.get(fate, 0) | mask
    box = page.box
    box.untold[page] = None
    if box.taker is not None:
        state.boxes.due[box] = None


# --- telling and confirming ---


def answer_receipts(step: Step) -> None:
    """Answer the processes that wait for receipts and have some now."""
    state = step.state
    for box in state.boxes.due:
        if box.taker is not None and box.untold:
            request, limit = box.taker
            box.taker = None
            step.effects.append(Reply(box.link, request, tell(box, limit)))
    state.boxes.due.clear()


def tell(box: ReceiptBox, limit: int) -> list[list[object]]:
    """[keys, places of those that completed, ranges] of up to `limit` settled events that were not told yet."""
    told: dict[Fate, list[int]] = {}
    for page in tuple(box.untold):
        for fate, settled in page.settled.items():
            mask = settled & ~page.told
            if mask.bit_count() > limit:
                mask = lowest(mask, limit) if limit else 0
            if mask:
                limit -= mask.bit_count()
                page.told |= mask
                _append_ranges(told.setdefault(fate, []), page.first, mask)
        if page.is_told:
            del box.untold[page]
        if not limit:
            break
    return [[list(map(list, keys)), list(bits(rows)), flat] for (keys, rows), flat in told.items()]


def _append_ranges(flat: list[int], first: int, mask: int) -> None:
    """Append the ranges of a mask to [first sequence, count, ...]; the last one may go on."""
    for start, count in runs(mask):
        if flat and flat[-2] + flat[-1] == first + start:
            flat[-1] += count
        else:
            flat += (first + start, count)


def ranges_of(page: ReceiptPage, mask: int) -> list[int]:
    """[first sequence, count, ...] of a mask."""
    flat: list[int] = []
    _append_ranges(flat, page.first, mask)
    return flat


def confirm(state: BusState, box: ReceiptBox, first: int, count: int) -> None:
    """Forget the settled events of these numbers; what is not settled stays."""
    last = first + count - 1
    for page in box.pages_between(first, last):
        wanted, forgotten = page.between(first, last), 0
        for fate, settled in tuple(page.settled.items()):
            if gone := settled & wanted:
                forgotten |= gone
                if settled == gone:
                    del page.settled[fate]
                else:
                    page.settled[fate] = settled & ~gone
        page.told &= ~forgotten
        _forget(state, page, forgotten)


def _forget(state: BusState, page: ReceiptPage, mask: int) -> None:
    """These are nowhere in the page any more: count them off. The page goes when it has nothing left, and so does the
    box if nobody has it open: what was still coming may end after its name was closed."""
    box = page.box
    box.count -= mask.bit_count()
    if page.is_told:
        box.untold.pop(page, None)
    if not page.kept:
        del box.pages[page.first >> SEQUENCE_BUCKET_SHIFT]
    state.boxes.drop_if_unused(box)


# --- names ---


def release_boxes(state: BusState, link: LinkState) -> None:
    """A process is gone, and so is what it had tagged and not sent. What it has sent stays under its names."""
    for page in link.tagged:
        coming, page.coming = page.coming, 0
        _forget(state, page, coming)
    link.tagged.clear()
    for box in tuple(link.boxes.values()):
        close_box(state, link, box)


def close_box(state: BusState, link: LinkState, box: ReceiptBox) -> None:
    """Nobody has the name open any more; it is forgotten if it has nothing."""
    del link.boxes[box.number]
    box.link, box.taker = 0, None
    state.boxes.due.pop(box, None)
    state.boxes.drop_if_unused(box)


def kept_pages(box: ReceiptBox, skip: int, limit: int) -> Iterator[ReceiptPage]:
    """The pages of a box behind the first `skip`, until they have `limit` events."""
    for page in box.pages_from(skip):
        yield page
        limit -= page.kept.bit_count()
        if limit <= 0:
            return
