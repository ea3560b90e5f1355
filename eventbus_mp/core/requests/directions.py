"""What a process that joins this host with others asks: where its events go, and how they have ended elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from eventbus_mp.core.directions import SubscriberKeys
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.hosting import after_release
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.settlement import settle_held, settle_waiting
from eventbus_mp.core.skips import name_skips
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import DIRECTED_MAX, REASON_LENGTH_MAX, SETTLED_RANGE_MAX
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import Outcome

_MARKED = {int(Outcome.COMPLETED): HistoryKind.MARKED_COMPLETED, int(Outcome.SKIPPED): HistoryKind.MARKED_SKIPPED}


@handles(requests.Direct)
def direct(step: Step, link: LinkState, message: requests.Direct) -> None:
    link.direction = step.state.directions.find(_keys(message.keys), is_imported=message.imported)


def _keys(sent: list[object]) -> SubscriberKeys:
    if len(sent) > DIRECTED_MAX:
        raise ProtocolError(f"it directed events to {len(sent)} subscribers, over {DIRECTED_MAX}")
    keys = []
    for item in sent:
        if not isinstance(item, list) or list(map(type, item)) != [str, bytes, str]:
            raise ProtocolError(f"it directed events to {item!r:.80}")
        keys.append((item[0], item[1], item[2]))
    return tuple(keys)


@handles(requests.SettleRanges)
def settle_ranges(step: Step, link: LinkState, message: requests.SettleRanges) -> None:
    outcome, flat = message.outcome, message.ranges
    if outcome not in _MARKED or len(flat) % 2 or not all(0 < count <= SETTLED_RANGE_MAX for count in flat[1::2]):
        raise ProtocolError(f"it settled {flat!r:.80} with outcome {outcome}")
    subscriber = step.state.registry.subscribers.get((message.name, message.config, message.host))
    if subscriber is None:
        return
    reason = message.reason[:REASON_LENGTH_MAX] if outcome == Outcome.SKIPPED else ""
    for first, count in zip(flat[::2], flat[1::2], strict=True):
        for batch in _batches_of(step.state, first, first + count - 1):
            row = batch.route.row_of.get(subscriber.number)
            mask = batch.between(first, first + count - 1) & batch.unsettled[row] if row is not None else 0
            if mask:
                if reason:
                    name_skips(step, batch, mask, subscriber, reason)
                step.log(_MARKED[outcome], batch, mask, subscriber, reason or None, link.pid)
                _settle_wherever(step, batch, mask, subscriber, outcome, reason)


def _batches_of(state: BusState, first: int, last: int) -> Iterable[EventBatch]:
    """All batches that may have some of these, and others. The table changes as they end."""
    bucket, last_bucket = first >> SEQUENCE_BUCKET_SHIFT, last >> SEQUENCE_BUCKET_SHIFT
    if last_bucket - bucket >= len(state.batches):
        return list(state.batches)
    return list(chain.from_iterable(map(state.batches.in_bucket, range(bucket, last_bucket + 1))))


def _settle_wherever(
    step: Step, batch: EventBatch, mask: int, subscriber: SubscriberState, outcome: int, reason: str
) -> None:
    """As `settle_wherever` of one event: what a process holds stays in flight there, and pins the memory, until that
    process is done with it as well."""
    for link in step.state.links.values():
        endpoint = link.endpoints.get(subscriber.number)
        held = endpoint.in_flight.get(batch, 0) & mask if endpoint is not None else 0
        if held:
            mask &= ~held
            batch.pins += held.bit_count()
            settle_held(step, batch, held, subscriber, outcome, reason)
            after_release(step.state, link, subscriber)
    if mask:
        settle_waiting(step, batch, mask, subscriber, outcome, reason)
