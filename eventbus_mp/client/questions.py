"""What a handle asks about the bus, in steps: the story of an event, the history of all, the numbers, and why."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from eventbus_mp.arguments import as_int, as_list, as_number
from eventbus_mp.client.listeners import key_of, subscriber_of, unpack_config, watcher_of
from eventbus_mp.client.session import Session
from eventbus_mp.client.steps import Steps, apart, ask
from eventbus_mp.client.validation import check_limit, pair_of
from eventbus_mp.errors import UsageError
from eventbus_mp.events import EventShadow, Place, check_topic
from eventbus_mp.explanation import Explanation, OpenView, UnsettledDelivery
from eventbus_mp.history import HistoryEntry, HistoryPage
from eventbus_mp.ids import EventId
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.requests import ExplainEvent, GetHistory, ListStuck, ListSubscribers, WatchEvent
from eventbus_mp.runtime.procfs import command_of
from eventbus_mp.runtime.stacks import stack_of
from eventbus_mp.snapshot import (
    EventCounts,
    ManagerSnapshot,
    MemorySnapshot,
    ProcessSnapshot,
    Snapshot,
    SubscriberSnapshot,
    TopicSnapshot,
    quantile_ns,
)
from eventbus_mp.statistics import Subscriber, Watcher, WatcherPage

__all__ = ["explain", "history", "snapshot", "story", "stuck", "subscribers", "watcher", "watchers"]

LIMIT_MAX = 1_000
ALL_TOPICS = -1
LISTED_TOPICS_MAX = 1 << 31
_KINDS = {kind.name.lower(): kind for kind in HistoryKind}
_NAMES = {int(kind): name for name, kind in _KINDS.items()}


def subscribers(topic: str | None) -> Steps[list[Subscriber]]:
    """As `EventBus.subscribers`."""
    rows = yield ask(ListSubscribers, topic)
    return [subscriber_of(row) for row in rows]


def watcher(session: Session, shadow: Any) -> Steps[Watcher | None]:
    """As `EventBus.watcher`."""
    session.reporter.flush_all()
    place = yield from session.placing(shadow)
    if place is None:
        return None
    reported = yield ask(WatchEvent, place.topic, place.sequence)
    return watcher_of(reported) if reported is not None else None


def watchers(session: Session, topic: str, limit: int | None, after: int | None) -> Steps[WatcherPage]:
    """As `EventBus.watchers`."""
    session.reporter.flush_all()
    found, rest = yield from session.fetcher.watched(topic, after or 0, limit or sys.maxsize)
    page = WatcherPage((event_id, watcher_of(reported)) for event_id, reported in found)
    page.next = rest or None
    return page


def story(session: Session, shadow: Any) -> Steps[list[str]]:
    """As `EventBus.story`."""
    session.reporter.flush_all()
    place = yield from _remembered(session, shadow)
    if place is None:
        return []
    answer = yield ask(GetHistory, place.sequence, None, None, 0, 0, LIMIT_MAX, [])
    entries = [_entry(row) for row in reversed(answer["entries"])]
    return [f"{entry.at_ns / 1e9:.6f} {entry.text}" for entry in entries]


def history(
    session: Session,
    topic: str | None,
    subscriber: str | None,
    kind: str | None,
    shadow: Any,
    since_s: float | None,
    limit: int,
    before: tuple[int, int] | None,
) -> Steps[HistoryPage]:
    """As `EventBus.history`."""
    if kind is not None and (not isinstance(kind, str) or kind not in _KINDS):
        raise UsageError(f"history(kind={kind!r}): there is no such kind; the kinds are {', '.join(_KINDS)}")
    limit = check_limit("history", limit, LIMIT_MAX)
    if since_s is not None:
        back_s = as_number(since_s)
        if back_s is None or not 0 < back_s < 1e9:
            raise UsageError(f"history(since_s={since_s!r}): give the seconds to look back, over 0")
        since_s = back_s
    place_before = as_list(before) if before is not None else []
    if place_before is None:
        raise UsageError(f"history(before={before!r:.40}): give the `before` of the page before, or None")
    session.reporter.flush_all()
    place = (yield from _remembered(session, shadow)) if shadow is not None else None
    if shadow is not None and place is None:
        return HistoryPage((), {}, None, _unix_offset_ns())
    answer = yield ask(
        GetHistory,
        place.sequence if place is not None else 0,
        topic,
        subscriber,
        int(_KINDS[kind]) if kind is not None else 0,
        int(since_s * 1e9) if since_s is not None else 0,
        limit,
        place_before,
    )
    return HistoryPage(
        entries=tuple(_entry(row) for row in answer["entries"]),
        counts={_NAMES[number]: events for number, events in sorted(answer["counts"].items())},
        before=tuple(answer["before"]) if answer["before"] is not None else None,
        unix_offset_ns=_unix_offset_ns(),
    )


def snapshot(session: Session, topics_max: int | None) -> Steps[Snapshot]:
    """As `EventBus.snapshot`."""
    wanted = as_int(topics_max) if topics_max is not None else ALL_TOPICS
    if wanted is None or (topics_max is not None and wanted < 0):
        raise UsageError(f"snapshot(topics_max={topics_max!r}): give a whole number, 0 or more, or None for all")
    session.reporter.flush_all()
    answer = yield from session.numbers(min(wanted, LISTED_TOPICS_MAX))
    facts, memory = answer["facts"], answer["memory"]
    # Where this process has another pid than the manager knows, /proc is about others.
    commands = command_of if answer["asking_pid"] == os.getpid() else lambda pid: ""
    manager = ManagerSnapshot(
        pid=facts.get("pid", 0),
        standby_pid=facts.get("standby_pid") or None,
        incarnation=session.connection.welcome.life,
        takeovers=answer["takeovers"],
        uptime_s=answer["uptime_ns"] / 1e9,
        journal_bytes=facts.get("journal_bytes", 0),
        journal_bytes_max=facts.get("journal_bytes_max", 0),
        is_end_asked=answer["is_end_asked"],
        leaves_in_s=_seconds(answer["leaves_in_ns"]),
    )
    ours = [("manager", manager.pid), ("standby", manager.standby_pid)]
    return Snapshot(
        bus=session.connection.bus,
        manager=manager,
        events=EventCounts(**answer["events"]),
        memory=MemorySnapshot(**memory),
        topics=tuple(_topic_snapshot(row) for row in answer["topics"]),
        topics_total=answer["topics_total"],
        subscribers=tuple(_subscriber_snapshot(row) for row in answer["subscribers"]),
        processes=(
            *(ProcessSnapshot(pid, role, commands(pid)) for role, pid in ours if pid),
            *(_process_snapshot(row, commands(row["pid"])) for row in answer["processes"]),
        ),
    )


def _topic_snapshot(row: dict[str, Any]) -> TopicSnapshot:
    oldest_ns = row.pop("oldest_age_ns")
    return TopicSnapshot(oldest_age_s=_seconds(oldest_ns), **row)


def _seconds(duration_ns: int | None) -> float | None:
    return duration_ns / 1e9 if duration_ns is not None else None


def _subscriber_snapshot(row: dict[str, Any]) -> SubscriberSnapshot:
    handling, grace_left_ns = row.pop("handling"), row.pop("grace_left_ns")
    median_ns, slow_ns = quantile_ns(handling, 0.5), quantile_ns(handling, 0.99)
    return SubscriberSnapshot(
        **{
            **row,
            "config": unpack_config(row["config"]),
            "host": row["host"] or None,
            "patterns": tuple(row["patterns"]),
            "pids": tuple(row["pids"]),
            "recent_skips": tuple((event_id, reason) for event_id, reason in row["recent_skips"]),
        },
        grace_left_s=_seconds(grace_left_ns),
        handling_log2_ns=tuple(handling),
        handling_p50_s=_seconds(median_ns),
        handling_p99_s=_seconds(slow_ns),
    )


def _process_snapshot(row: dict[str, Any], command: str) -> ProcessSnapshot:
    return ProcessSnapshot(command=command, connected_s=row.pop("connected_ns") / 1e9, **row)


def explain(session: Session, shadow: Any) -> Steps[Explanation | None]:
    """As `EventBus.explain`."""
    topic, event_id = pair_of(shadow)
    session.reporter.flush_all()
    place = yield from _remembered(session, shadow)
    if place is None:
        return None
    answer = yield ask(ExplainEvent, place.sequence)
    is_near = answer["asking_pid"] == os.getpid()
    stacks: dict[int, str | None] = {}
    deliveries = []
    for row in answer["deliveries"]:
        pid = row["pid"]
        if pid and is_near and pid not in stacks:
            stacks[pid] = yield apart(stack_of, pid)
        delivery = _unsettled_delivery({**row, "age_ns": answer["age_ns"]}, event_id, is_near)
        deliveries.append(delivery.with_stack(stacks.get(pid)))
    return Explanation(
        topic=topic,
        id=event_id,
        age_s=answer["age_ns"] / 1e9 if answer["age_ns"] is not None else None,
        deliveries=tuple(deliveries),
        views=tuple(
            OpenView(
                pid=row["pid"],
                command=command_of(row["pid"]) if is_near else "",
                age_s=row["age_ns"] / 1e9,
                views=row["views"],
                nbytes=row["bytes"],
            )
            for row in answer["views"]
        ),
    )


def stuck(session: Session, older_than_s: float, limit: int, topic: str | None) -> Steps[list[UnsettledDelivery]]:
    """As `EventBus.stuck`."""
    if not isinstance(older_than_s, (int, float)) or not 0 <= older_than_s < 1e9:
        raise UsageError(f"stuck({older_than_s!r}): give the seconds that it has been unsettled, 0 or more")
    limit = check_limit("stuck", limit, LIMIT_MAX)
    if topic is not None:
        topic = check_topic(topic)
    session.reporter.flush_all()
    answer = yield ask(ListStuck, int(older_than_s * 1e9), limit, topic)
    is_near = answer["asking_pid"] == os.getpid()
    return [
        _unsettled_delivery(row, session.fetcher.id_of_record(row["record"]), is_near) for row in answer["deliveries"]
    ]


def _unsettled_delivery(row: dict[str, Any], event_id: EventId | None, is_near: bool) -> UnsettledDelivery:
    held_ns = row.get("held_ns")
    return UnsettledDelivery(
        topic=row["topic"],
        id=event_id,
        subscriber=key_of(row["name"], row["config"], row["host"]),
        state=row["state"],
        why=row["why"],
        age_s=row["age_ns"] / 1e9,
        attempt=row["attempt"],
        hosts=tuple(row["hosts"]),
        pid=row["pid"],
        # Where this process has another pid than the manager knows, /proc is about others.
        command=command_of(row["pid"]) if row["pid"] and is_near else "",
        held_s=held_ns / 1e9 if held_ns is not None else None,
        position=row.get("position"),
        last_error=row["error"] or None,
    )


def _remembered(session: Session, shadow: Any) -> Steps[Place | None]:
    """Where an event lies or lay, settled or not."""
    if isinstance(shadow, EventShadow) and shadow._place is not None:
        return shadow._place
    return (yield from session.fetcher.recalling(*pair_of(shadow)))


def _entry(row: list[Any]) -> HistoryEntry:
    at_ns, kind, events, topics, pid, name, config, host, detail = row
    key = key_of(name, config, host) if name is not None else None
    return HistoryEntry(at_ns, _NAMES[kind], events, tuple(topics), pid or None, key, detail)


def _unix_offset_ns() -> int:
    return time.time_ns() - time.monotonic_ns()
