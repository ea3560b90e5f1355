"""After the manager was replaced: each process reports what has arrived, and gets again what has not."""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.batches import BatchTable
from eventbus_mp.core.dispatcher import deliver_by_attempt
from eventbus_mp.core.entities import Endpoint
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.hosting import after_release
from eventbus_mp.core.lifecycle import announce_takeover
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.settlement import unpin
from eventbus_mp.core.span_requests import recycle_if_free
from eventbus_mp.core.state import Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.history_kinds import HistoryKind

REPORTED_MAX = 1 << 21
"""More deliveries than an endpoint can hold: a larger number is nonsense."""


@handles(requests.ReportState)
def report_state(step: Step, link: LinkState, message: requests.ReportState) -> None:
    """Send again what did not arrive, and take back spans that the process does not know it has."""
    resync = link.resync
    if resync is None or resync.manager != message.manager:
        return  # It reports to a manager that is dead by now.
    link.resync = None
    announce_takeover(step)
    for hosted in link.endpoints.values():
        hosted.is_resyncing = False
        hosted.hear()  # The new manager may not have called back what the old one has.
        hosted.owes_all = False
        step.state.dirty[hosted.subscriber] = None  # What came in the meantime goes after what is sent again here.
    arrived = _arrived(step.state.batches, message)
    for number, batches in resync.in_flight.items():
        endpoint = link.endpoints.get(number)
        if endpoint is not None:
            _send_missing(step, link, endpoint, batches, arrived)
    for place, span in resync.spans.items():
        # The same span, and not another one at its place, which it was granted since and may not have heard of.
        if link.spans.get(place) is span and [span.segment, span.start] not in message.spans:
            del link.spans[place]
            span.sealed = True
            recycle_if_free(step, span)


def _send_missing(
    step: Step,
    link: LinkState,
    endpoint: Endpoint,
    batches: dict[EventBatch, int],
    arrived: dict[tuple[int, EventBatch], int],
) -> None:
    """Send again what the manager before may have sent, is in flight still, and is not among what arrived."""
    number = endpoint.subscriber.number
    for batch, mask in batches.items():
        missing = mask & endpoint.in_flight.get(batch, 0) & ~arrived.get((number, batch), 0)
        settled = missing & ~batch.unsettled[batch.route.row_of[number]]
        if settled:  # By another process: this one need not hear of it any more.
            endpoint.release_in_flight(batch, settled)
            unpin(step, batch, settled, endpoint.subscriber)
            after_release(step.state, link, endpoint.subscriber)
            missing &= ~settled
        if missing:
            deliver_by_attempt(step, endpoint, [(batch, missing)], HistoryKind.SENT_AGAIN)


def _arrived(table: BatchTable, message: requests.ReportState) -> dict[tuple[int, EventBatch], int]:
    """(subscriber, batch) -> what the process says it has."""
    arrived: dict[tuple[int, EventBatch], int] = {}
    for item in message.held:
        number, flat = _checked(item)
        for first, count in zip(flat[::2], flat[1::2], strict=True):
            last = first + count - 1
            for bucket in range(first >> SEQUENCE_BUCKET_SHIFT, (last >> SEQUENCE_BUCKET_SHIFT) + 1):
                for batch in table.in_bucket(bucket):
                    arrived[number, batch] = arrived.get((number, batch), 0) | batch.between(first, last)
    return arrived


def _checked(item: Any) -> tuple[int, list[int]]:
    """Subscriber number and ranges, if that is what it is."""
    if isinstance(item, list) and len(item) == 2 and isinstance(item[0], int) and isinstance(item[1], list):
        number, flat = item
        is_numbers = not len(flat) % 2 and all(type(part) is int and part >= 0 for part in flat)
        if is_numbers and sum(flat[1::2]) <= REPORTED_MAX:
            return number, flat
    raise ProtocolError(f"it reported that it holds {item!r:.80}")
