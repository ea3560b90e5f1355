"""The numbers of the whole bus. All of them are counted as things happen: nothing here looks at an event."""

from __future__ import annotations

from heapq import nlargest
from operator import attrgetter
from typing import Any

from eventbus_mp.core.backlog import Backlog
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.leaving import leave_due_ns
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.handling import ANSWERED_LATER, handles
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import ReplyWithFacts

DROPPED_MAX = 1 << 40
"""More events than a process drops between two reports: a larger number is nonsense."""


@handles(requests.GetSnapshot)
def get_snapshot(step: Step, link: LinkState, message: requests.GetSnapshot) -> Any:
    state, now_ns = step.state, step.now_ns
    topics = state.registry.topics.values()
    listed = nlargest(message.topics_max, topics, key=_backlog) if 0 <= message.topics_max < len(topics) else topics
    masks: dict[EventBatch, dict[Topic, int]] = {}
    writers = state.spans.written()
    value = {
        "uptime_ns": now_ns - state.started_ns,
        "takeovers": state.takeovers,
        "asking_pid": link.pid,
        "is_end_asked": state.is_end_asked,
        "leaves_in_ns": _left_ns(leave_due_ns(state), now_ns),
        "events": {
            "notified": state.events_notified,
            "dropped": state.events_dropped,
            "unsettled": sum(topic.unsettled for topic in topics),
        },
        "memory": {
            "bytes_max": state.spans.memory_bytes_max,
            "bytes_used": state.spans.used_bytes,
            "bytes_leased": state.spans.all_leased_bytes,
            "bytes_spilled": state.spans.spilled_bytes,
            "bytes_of_the_gone": sum(
                nbytes for number, nbytes in writers.items() if number and number not in state.links
            ),
            "segments": state.spans.segment_count,
        },
        "topics_total": len(topics),
        "topics": [_topic(topic, masks, now_ns) for topic in listed],
        "subscribers": [_subscriber(state, item, now_ns) for item in state.registry.subscribers.values()],
        "processes": [_process(item, writers.get(item.number, 0), now_ns) for item in state.links.values()],
    }
    step.effects.append(ReplyWithFacts(link.number, message.request, value))
    return ANSWERED_LATER


_backlog = attrgetter("unsettled", "notified")


def _topic(topic: Topic, masks: dict[EventBatch, dict[Topic, int]], now_ns: int) -> dict[str, Any]:
    since_ns = topic.oldest_ns(masks)
    return {
        "name": topic.name,
        "notified": topic.notified,
        "delivered": topic.delivered,
        "dropped": topic.dropped,
        "unsettled": topic.unsettled,
        "bytes_unsettled": topic.nbytes,
        "oldest_age_ns": now_ns - since_ns if since_ns is not None else None,
    }


def _left_ns(due_ns: int | None, now_ns: int) -> int | None:
    return max(0, due_ns - now_ns) if due_ns is not None else None


def _subscriber(state: BusState, subscriber: SubscriberState, now_ns: int) -> dict[str, Any]:
    return {
        "name": subscriber.name,
        "config": subscriber.config,
        "host": subscriber.host,
        "patterns": list(subscriber.patterns),
        "scope": subscriber.scope,
        "pids": [endpoint.pid for endpoint in subscriber.endpoints],
        "grace_left_ns": _left_ns(state.orphans.get(subscriber), now_ns),
        "queued": subscriber.waiting_count,
        "in_flight": sum(endpoint.in_flight_count for endpoint in subscriber.endpoints),
        "completed": subscriber.completed,
        "skipped": subscriber.skipped,
        "skip_reasons": dict(subscriber.reasons),
        "redelivered": subscriber.redelivered,
        "handling": list(subscriber.handling),
        **_bound(subscriber.backlog),
        "recent_skips": [list(skip) for skip in subscriber.recent_skips],
    }


def _bound(backlog: Backlog | None) -> dict[str, Any]:
    if backlog is None:
        return {"backlog_max": None, "backlog_bytes_max": None, "backlog_bytes": None, "when_full": None}
    return {
        "backlog_max": backlog.events_max or None,
        "backlog_bytes_max": backlog.bytes_max or None,
        "backlog_bytes": backlog.nbytes if backlog.bytes_max else None,
        "when_full": backlog.when_full,
    }


def _process(link: LinkState, bytes_written: int, now_ns: int) -> dict[str, Any]:
    return {
        "pid": link.pid,
        "role": link.role,
        "connected_ns": now_ns - link.since_ns,
        "in_flight": sum(endpoint.in_flight_count for endpoint in link.endpoints.values()),
        "bytes_written": bytes_written,
        "views": len(link.leases),
        "bytes_viewed": link.leased_bytes,
    }


@handles(requests.Introduce)
def introduce(step: Step, link: LinkState, message: requests.Introduce) -> None:
    if message.role not in requests.ROLES:
        raise ProtocolError(f"it introduced itself as {message.role!r:.40}")
    link.role = message.role


@handles(requests.ReportDropped)
def report_dropped(step: Step, link: LinkState, message: requests.ReportDropped) -> None:
    if len(message.topics) != len(message.counts) or not all(0 < count <= DROPPED_MAX for count in message.counts):
        raise ProtocolError(f"it dropped {message.counts!r:.60} events of {len(message.topics)} topics")
    state = step.state
    for name, count in zip(message.topics, message.counts, strict=True):
        state.events_dropped += count
        topic = state.registry.topics.get(name)
        if topic is not None:  # else: nobody has registered it.
            topic.dropped += count
