"""What the bus answers as values for JSON. Names and ids are users' texts, and a config may be anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from eventbus_mp import (
    Event,
    EventBusError,
    Explanation,
    HistoryPage,
    ProcessSnapshot,
    Snapshot,
    SubscriberKey,
    SubscriberSnapshot,
    TopicSnapshot,
    UnsettledDelivery,
    Watcher,
)
from eventbus_mp.addons.web.preview import id_fields, preview

__all__ = [
    "bus_fields",
    "delivery_row",
    "event_fields",
    "explanation_fields",
    "json_bytes",
    "process_row",
    "story_rows",
    "subscriber_row",
    "topic_row",
    "watcher_row",
]

DECODED_BYTES_MAX = 1 << 20
"""What is larger is not decoded for a look at 16 KiB of it. Arrays and memoryviews do not count: they are not read."""
EVENT_FIELDS = ("transaction_id", "source", "initialized_at", "occurred_at", "ttl")


def json_bytes(value: Any) -> bytes:
    """The value as strict JSON, in ASCII and on one line."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def topic_row(item: TopicSnapshot, rate: float | None) -> dict[str, Any]:
    """A topic, with the events that reach it in a second; None: not known yet."""
    return {
        "name": item.name,
        "notified": item.notified,
        "rate": rate,
        "delivered": item.delivered,
        "dropped": item.dropped,
        "unsettled": item.unsettled,
        "bytes_unsettled": item.bytes_unsettled,
        "oldest_age_s": item.oldest_age_s,
    }


def subscriber_row(item: SubscriberSnapshot, rate: float | None) -> dict[str, Any]:
    """A subscriber, with the deliveries that it completes in a second; None: not known yet."""
    return {
        **_key(item),
        "patterns": list(item.patterns),
        "pids": list(item.pids),
        "grace_left_s": item.grace_left_s,
        "queued": item.queued,
        "in_flight": item.in_flight,
        "completed": item.completed,
        "rate": rate,
        "skipped": item.skipped,
        "skip_reasons": dict(item.skip_reasons),
        "redelivered": item.redelivered,
        "handling_p50_s": item.handling_p50_s,
        "handling_p99_s": item.handling_p99_s,
        "recent_skips": [{**id_fields(event_id), "reason": reason} for event_id, reason in item.recent_skips[-10:]],
    }


def process_row(item: ProcessSnapshot) -> dict[str, Any]:
    """A process, with the beginning of its command line."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__} | {"command": item.command[:300]}


def bus_fields(now: Snapshot) -> dict[str, Any]:
    """What a snapshot has but its lists."""
    whole: dict[str, Any] = {"manager": now.manager, "events": now.events, "memory": now.memory}
    parts = {name: {field: getattr(part, field) for field in part.__dataclass_fields__} for name, part in whole.items()}
    counts = {"topics": now.topics_total, "subscribers": len(now.subscribers), "processes": len(now.processes)}
    return {"bus": now.bus, **parts, "totals": counts}


def delivery_row(item: UnsettledDelivery) -> dict[str, Any]:
    """A delivery, and the same as a sentence."""
    fields = {name: getattr(item, name) for name in item.__dataclass_fields__}
    return {
        **fields,
        **id_fields(item.id),
        "subscriber": _key(item.subscriber),
        "hosts": list(item.hosts),
        "command": item.command[:300],
        "text": item.text,
    }


def explanation_fields(found: Explanation) -> dict[str, Any]:
    """Why an event is still there."""
    return {
        "topic": found.topic,
        **id_fields(found.id),
        "age_s": found.age_s,
        "is_settled": found.is_settled,
        "deliveries": [delivery_row(delivery) for delivery in found.deliveries],
        "views": [
            {**{name: getattr(view, name) for name in view.__dataclass_fields__}, "text": view.text}
            for view in found.views
        ],
    }


def story_rows(page: HistoryPage) -> list[dict[str, Any]]:
    """What happened to an event, the oldest first, with the times in seconds since 1970."""
    return [
        {"at_s": (entry.at_ns + page.unix_offset_ns) / 1e9, "kind": entry.kind, "pid": entry.pid, "text": entry.text}
        for entry in reversed(page.entries)
    ]


def watcher_row(topic: str, event_id: str | int, watcher: Watcher) -> dict[str, Any]:
    """An unsettled event of a list: who has settled it, and who has not."""
    return {
        "topic": topic,
        **id_fields(event_id),
        "waiting": _keys(watcher.waiting),
        "completers": _keys(watcher.completers),
        "skippers": _keys(watcher.skippers),
    }


def event_fields(event: Event) -> dict[str, Any]:
    """An event's fields and a preview of its data."""
    given: Mapping[str, Any] = {name: getattr(event, name) for name in EVENT_FIELDS}
    fields, is_cut = preview({name: value for name, value in given.items() if value is not None})
    headers, more = preview(dict(event.headers or {}))
    return {
        "fields": fields,
        "headers": headers,
        **_data_fields(event, is_cut or more),
    }


def _data_fields(event: Event, is_cut: bool) -> dict[str, Any]:
    encoded = event.encoded
    size = {"bytes": len(encoded.data) + sum(buffer.nbytes for buffer in encoded.buffers)}
    if len(encoded.data) > DECODED_BYTES_MAX:
        return {**size, "data": None, "is_cut": True, "error": "it is too large to be shown"}
    try:
        shown, more = preview(event.data)
    except EventBusError as error:
        return {**size, "data": None, "is_cut": is_cut, "error": str(error)}
    return {**size, "data": shown, "is_cut": is_cut or more, "error": None}


def _key(item: SubscriberKey | SubscriberSnapshot) -> dict[str, Any]:
    return {"name": item.name, "config": preview(item.config)[0], "host": item.host}


def _keys(keys: Iterable[SubscriberKey]) -> list[dict[str, Any]]:
    return [_key(key) for key in keys]
