"""Why an event is still here, and which deliveries have been unsettled for longest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.event_log import EventLog
from eventbus_mp.core.failures import PROCESS_CRASHED, Failure
from eventbus_mp.core.hosting import holder_of
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import bits
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.history_kinds import HistoryKind

LISTED_MAX = 1_000
_SENT = (HistoryKind.SENT, HistoryKind.SENT_AGAIN)


@handles(requests.ExplainEvent)
def explain_event(step: Step, link: LinkState, message: requests.ExplainEvent) -> dict[str, Any]:
    state, sequence, now_ns = step.state, message.sequence, step.now_ns
    sent, crashed = _told(state.event_log, sequence)
    found = state.batches.find(sequence)
    deliveries = []
    for batch, bit in found:
        for subscriber in _waited_for(batch, bit):
            row = _delivery(state, batch, bit, subscriber)
            since_ns = sent.get(subscriber.key)
            row["held_ns"] = now_ns - since_ns if row["pid"] and since_ns is not None else None
            if row["error"] == PROCESS_CRASHED and subscriber.key in crashed:
                row["error"] = f"process {crashed[subscriber.key]} crashed with it"
            row["position"] = _position(batch, bit, subscriber) if row["state"] == "queued" else None
            deliveries.append(row)
    return {
        "asking_pid": link.pid,
        "age_ns": now_ns - found[0][0].since_ns if found else None,
        "deliveries": deliveries,
        "views": [
            {"pid": item.pid, "age_ns": now_ns - lease.since_ns, "views": lease.views, "bytes": lease.length}
            for item in state.links.values()
            if (lease := item.leases.get(sequence)) is not None
        ],
    }


@handles(requests.ListStuck)
def list_stuck(step: Step, link: LinkState, message: requests.ListStuck) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    limit = min(max(message.limit, 1), LISTED_MAX)
    wanted = step.state.registry.topics.get(message.topic) if message.topic is not None else None
    batches: Iterable[EventBatch] = wanted.batches if wanted is not None else ()
    for batch in step.state.batches if message.topic is None else batches:
        age_ns = step.now_ns - batch.since_ns
        if age_ns < message.older_ns or len(listed) >= limit:
            break
        for index in bits(batch.any_unsettled() & (batch.of_topic(wanted) if wanted is not None else -1)):
            for subscriber in _waited_for(batch, 1 << index):
                row = _delivery(step.state, batch, 1 << index, subscriber)
                listed.append({**row, "age_ns": age_ns, "record": batch.cut(1 << index)})
            if len(listed) >= limit:
                break
    return {"asking_pid": link.pid, "deliveries": listed[:limit]}


def _waited_for(batch: EventBatch, bit: int) -> list[SubscriberState]:
    """The subscribers that have not settled this event."""
    return [item for row, item in enumerate(batch.route.subscribers) if batch.unsettled[row] & bit]


def _delivery(state: BusState, batch: EventBatch, bit: int, subscriber: SubscriberState) -> dict[str, Any]:
    """Where a delivery is, and what it waits for."""
    place, why, holder = "in_flight", "", None
    sequence = batch.first + bit.bit_length() - 1
    if batch.waiting[batch.route.row_of[subscriber.number]] & bit:
        place, why = "queued", _why_it_waits(state, batch, subscriber)
    elif subscriber.delayed.get(batch, 0) & bit:
        place, why = "delayed", "it waits to be tried again"
        if batch.is_dead_letter:
            why += ", or for a process that still has the dead letter before it"
    else:
        holder = _holder(state, batch, bit, subscriber)
        if holder is None:
            place, why = "quarantined", _why_it_waits(state, batch, subscriber)
    return {
        "topic": batch.topic_of(bit.bit_length() - 1).name,
        "name": subscriber.name,
        "config": subscriber.config,
        "host": subscriber.host,
        "state": place,
        "why": why,
        "pid": holder.pid if holder is not None else None,
        "attempt": subscriber.attempt_of(sequence),
        "error": _last_error(subscriber.failures.get(sequence)),
        "hosts": [endpoint.pid for endpoint in subscriber.endpoints],
    }


def _last_error(failure: Failure | None) -> str:
    if failure is None:
        return ""
    return f"{failure.error}: {failure.text}" if failure.error else failure.text


def _holder(state: BusState, batch: EventBatch, bit: int, subscriber: SubscriberState) -> Endpoint | None:
    for endpoint in subscriber.endpoints:
        if endpoint.in_flight.get(batch, 0) & bit:
            return endpoint
    return holder_of(state, batch, bit, subscriber)  # It may have been unsubscribed.


def _why_it_waits(state: BusState, batch: EventBatch, subscriber: SubscriberState) -> str:
    if not subscriber.endpoints:
        return "no process hosts the subscriber"
    if batch.is_imported and all(endpoint.forwards for endpoint in subscriber.endpoints):
        return "it has come from another host, and no process of this one hosts the subscriber"
    if subscriber in state.held:
        return "memory is short, and the later stages of its pipeline come first"
    if any(endpoint.is_resyncing for endpoint in subscriber.endpoints):
        return "a process has not yet reported to the new manager"
    if subscriber.attempts:
        return "events whose process crashed are tried one at a time"
    held = sum(endpoint.in_flight_count for endpoint in subscriber.endpoints)
    return f"its processes hold {held} deliveries, which is all that they may"


def _position(batch: EventBatch, bit: int, subscriber: SubscriberState) -> int:
    """How many deliveries are in front of this one in its subscriber's queue."""
    number, ahead = subscriber.number, len(subscriber.quarantine)
    for other in dict.fromkeys(subscriber.queue):
        waiting = other.waiting[other.route.row_of[number]]
        if other is batch:
            return ahead + (waiting & (bit - 1)).bit_count()
        ahead += waiting.bit_count()
    return ahead


def _told(log: EventLog, sequence: int) -> tuple[dict[Any, int], dict[Any, int]]:
    """Subscriber -> when an event was sent for it last; and -> the process that crashed with it last."""
    sent, crashed = {}, {}
    for now_ns, kind, first, mask, _, pid, key, _ in log.entries():
        if first <= sequence and mask >> (sequence - first) & 1:
            if kind in _SENT:
                sent[key] = now_ns
            elif kind == HistoryKind.CRASHED:
                crashed[key] = pid
    return sent, crashed
