"""Requests about receipts: to open a name, to tag events, to be told what became of them, and to confirm that."""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.links import LinkState
from eventbus_mp.core.receipt_boxes import ReceiptBox
from eventbus_mp.core.receipts import close_box, confirm, kept_pages, ranges_of, tag, tell
from eventbus_mp.core.requests.handling import ANSWERED_LATER, handles
from eventbus_mp.core.state import Step
from eventbus_mp.errors import ProtocolError, UsageError
from eventbus_mp.geometry import RECEIPTS_TOLD_MAX, SETTLED_RANGE_MAX
from eventbus_mp.protocol import requests

BOXES_MAX = 1_024
LISTED_MAX = 4_096
"""How many tags one answer lists, and up to a page more."""


@handles(requests.OpenReceipts)
def open_receipts(step: Step, link: LinkState, message: requests.OpenReceipts) -> list[int]:
    state = step.state
    box = state.boxes.by_name.get(message.name)
    if box is None:
        if len(state.boxes.by_name) >= BOXES_MAX:
            raise UsageError(f"the bus has receipts of {BOXES_MAX} names and takes no more; confirm those of old ones")
        box = state.boxes.add(message.name)
    elif box.link:
        raise UsageError(
            f"receipts {message.name!r} are open in process {state.links[box.link].pid}, and one at a time has them: "
            "close them there, or use another name"
        )
    box.link = link.number
    link.boxes[box.number] = box
    box.tell_again()
    return [box.number, state.config.receipts_max, box.count]


def _opened(link: LinkState, number: int) -> ReceiptBox:
    box = link.boxes.get(number)
    if box is None:
        raise ProtocolError(f"it has not opened the receipts with number {number}")
    return box


@handles(requests.ListReceipts)
def list_receipts(step: Step, link: LinkState, message: requests.ListReceipts) -> list[list[Any]]:
    if message.skip < 0:
        raise ProtocolError(f"it skips {message.skip} pages of receipts")
    return [
        [ranges_of(page, page.kept), ranges_of(page, page.coming | page.unsettled), *page.tags_of(page.kept)]
        for page in kept_pages(_opened(link, message.box), message.skip, LISTED_MAX)
    ]


@handles(requests.Tag)
def tag_events(step: Step, link: LinkState, message: requests.Tag) -> None:
    box = _opened(link, message.box)
    tag(step.state, link, box, message.first, message.widths, message.tags, message.dropped)


@handles(requests.TakeReceipts)
def take_receipts(step: Step, link: LinkState, message: requests.TakeReceipts) -> Any:
    box = _opened(link, message.box)
    if (message.waits and box.taker is not None) or not 0 < message.limit <= RECEIPTS_TOLD_MAX:
        raise ProtocolError(f"it asked for {message.limit} receipts of {box.name!r}, waiting for {box.taker}")
    if not message.waits:
        return tell(box, message.limit)
    box.taker = message.request, message.limit
    if box.untold:
        step.state.boxes.due[box] = None
    return ANSWERED_LATER


@handles(requests.ConfirmReceipts)
def confirm_receipts(step: Step, link: LinkState, message: requests.ConfirmReceipts) -> None:
    box, flat = _opened(link, message.box), message.ranges
    if len(flat) % 2 or min(flat, default=0) < 0 or sum(flat[1::2]) > SETTLED_RANGE_MAX:
        raise ProtocolError(f"it confirmed {flat!r:.80}")
    for first, count in zip(flat[::2], flat[1::2], strict=True):
        confirm(step.state, box, first, count)


@handles(requests.CloseReceipts)
def close_receipts(step: Step, link: LinkState, message: requests.CloseReceipts) -> None:
    close_box(step.state, link, _opened(link, message.box))
