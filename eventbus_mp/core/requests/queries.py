"""Questions that change nothing. What has several parts is answered by name: dictionaries with fixed keys."""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import bits
from eventbus_mp.core.requests.events import find_event
from eventbus_mp.core.state import Step
from eventbus_mp.core.watchers import WireWatcher, describe
from eventbus_mp.protocol import requests

__all__ = ["get_history", "get_statistics", "list_events", "list_subscribers", "watch_event"]


def list_subscribers(step: Step, link: LinkState, message: requests.ListSubscribers) -> list[dict[str, Any]]:
    state = step.state
    if message.topic is None:
        subscribers = tuple(state.registry.subscribers.values())
    else:
        topic = state.registry.topics.get(message.topic)
        subscribers = topic.route.subscribers if topic else ()
    return [
        {
            "name": subscriber.name,
            "config": subscriber.config,
            "patterns": list(subscriber.patterns),
            "pids": [state.links[endpoint.link].pid for endpoint in subscriber.endpoints],
        }
        for subscriber in subscribers
    ]


def watch_event(step: Step, link: LinkState, message: requests.WatchEvent) -> WireWatcher | None:
    found = find_event(step.state, message.topic, message.sequence)
    return describe(*found[0]) if found else None


def list_events(step: Step, link: LinkState, message: requests.ListEvents) -> bytes | list[dict[str, Any]]:
    state = step.state
    topic = state.registry.topics.get(message.topic)
    if topic is None or not topic.unsettled:
        return [] if message.watchers else b""
    found = [(batch, mask) for batch in state.batches if (mask := batch.of_topic(topic) & batch.any_unsettled())]
    if message.watchers:
        return [
            {"record": batch.cut(1 << index), "watcher": describe(batch, 1 << index)}
            for batch, mask in found
            for index in bits(mask)
        ]
    return b"".join([batch.cut(mask) for batch, mask in found])


def get_statistics(step: Step, link: LinkState, message: requests.GetStatistics) -> dict[str, Any]:
    state = step.state
    holders: dict[int, int] = {}
    for span in state.spans.in_use():
        writer = state.links.get(span.writer)
        pid = writer.pid if writer else 0
        holders[pid] = holders.get(pid, 0) + span.length
    return {
        "topics": len(state.registry.topics),
        "subscribers": [_subscriber_statistics(item) for item in state.registry.subscribers.values()],
        "links": len(state.links),
        "events_notified": state.events_notified,
        "events_dropped": state.events_dropped,
        "events_unsettled": sum(topic.unsettled for topic in state.registry.topics.values()),
        "memory_bytes_max": state.spans.memory_bytes_max,
        "memory_bytes_used": state.spans.used_bytes,
        "memory_bytes_leased": sum(span.length for span in state.spans.in_use() if span.leases),
        "segments": state.spans.segment_count,
        "span_holders": list(holders.items()),
        "lease_holders": [[link.pid, _leased_bytes(link)] for link in state.links.values() if link.leases],
    }


def _leased_bytes(link: LinkState) -> int:
    return sum(lease.length for lease in link.leases.values())


def _subscriber_statistics(subscriber: SubscriberState) -> dict[str, Any]:
    return {
        "name": subscriber.name,
        "config": subscriber.config,
        "queued": subscriber.queued + len(subscriber.quarantine),
        "sent": sum(endpoint.in_flight_count for endpoint in subscriber.endpoints),
        "completed": subscriber.completed,
        "skipped": subscriber.skipped,
        "redelivered": subscriber.redelivered,
        "recent_skips": [list(skip) for skip in subscriber.recent_skips],
    }


def get_history(step: Step, link: LinkState, message: requests.GetHistory) -> list[str]:
    return step.state.event_log.of(message.sequence)
