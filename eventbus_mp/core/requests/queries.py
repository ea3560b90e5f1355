"""Questions that change nothing. What has several parts is answered by name: dictionaries with fixed keys."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from eventbus_mp.core.changes import facts_of
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_SHIFT, bits
from eventbus_mp.core.requests.events import find_event
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.state import Step
from eventbus_mp.core.watchers import WireWatcher, describe
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import EVENTS_PAGE_MAX
from eventbus_mp.protocol import requests


@handles(requests.ListSubscribers)
def list_subscribers(step: Step, link: LinkState, message: requests.ListSubscribers) -> list[dict[str, Any]]:
    state = step.state
    if message.topic is None:
        subscribers = tuple(state.registry.subscribers.values())
    else:
        topic = state.registry.topics.get(message.topic)
        subscribers = topic.route.subscribers if topic else ()
    return [facts_of(subscriber) for subscriber in subscribers]


@handles(requests.WatchEvent)
def watch_event(step: Step, link: LinkState, message: requests.WatchEvent) -> WireWatcher | None:
    found = find_event(step.state, message.topic, message.sequence)
    return describe(*found[0]) if found else None


@handles(requests.ListEvents)
def list_events(step: Step, link: LinkState, message: requests.ListEvents) -> list[dict[str, Any]]:
    if not 0 <= message.limit <= EVENTS_PAGE_MAX or message.after < 0:
        raise ProtocolError(f"it asked for {message.limit} events after {message.after}")
    topic = step.state.registry.topics.get(message.topic)
    found = _page(topic, message.after, message.limit) if topic and topic.unsettled else []
    return [{"record": batch.cut(bit), "watcher": describe(batch, bit)} for _, batch, bit in found]


def _page(topic: Topic, after: int, limit: int) -> list[tuple[int, EventBatch, int]]:
    """(sequence, batch, bit) of the next unsettled events of the topic; no other topic's batches are looked at."""
    by_bucket: dict[int, list[EventBatch]] = {}
    first = after >> SEQUENCE_BUCKET_SHIFT
    for batch in topic.batches:
        bucket = batch.first >> SEQUENCE_BUCKET_SHIFT
        if bucket >= first:
            by_bucket.setdefault(bucket, []).append(batch)
    found: list[tuple[int, EventBatch, int]] = []
    for bucket in sorted(by_bucket):
        here = [
            (batch.first + index, batch, 1 << index)
            for batch in by_bucket[bucket]
            for index in bits(batch.of_topic(topic) & batch.any_unsettled() & batch.after(after))
        ]
        here.sort(key=itemgetter(0))
        found += here
        if len(found) >= limit:
            break
    # What was sent again from the dead letters has its event's number, and a page cannot begin between the two.
    while limit and limit < len(found) and found[limit][0] == found[limit - 1][0]:
        limit += 1
    return found[:limit]
