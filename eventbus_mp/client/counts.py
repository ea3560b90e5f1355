"""The manager's answer about its numbers as `BusStatistics`, and as a line of text."""

from __future__ import annotations

from typing import Any

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.listeners import unpack_config
from eventbus_mp.client.steps import Steps, happening
from eventbus_mp.protocol.requests import GetSnapshot
from eventbus_mp.statistics import BusStatistics, SubscriberStatistics

__all__ = ["bus_statistics", "describing_holders"]

HOLDERS_TIMEOUT_S = 1.0
"""How long the manager may take to say who holds the memory. By then the time of the call that asks is over."""


def bus_statistics(answer: dict[str, Any], manager_pid: int) -> BusStatistics:
    """The answer to `GetSnapshot` in short."""
    events, memory, processes = answer["events"], answer["memory"], answer["processes"]
    holders: dict[int, int] = {0: memory["bytes_of_the_gone"]}
    for row in processes:
        holders[row["pid"]] = holders.get(row["pid"], 0) + row["bytes_written"]
    return BusStatistics(
        topics=answer["topics_total"],
        subscribers=tuple(_subscriber_statistics(row) for row in answer["subscribers"]),
        links=len(processes),
        manager_pid=manager_pid,
        events_notified=events["notified"],
        events_dropped=events["dropped"],
        events_unsettled=events["unsettled"],
        memory_bytes_max=memory["bytes_max"],
        memory_bytes_used=memory["bytes_used"],
        memory_bytes_leased=memory["bytes_leased"],
        segments=memory["segments"],
        span_holders={pid: nbytes for pid, nbytes in holders.items() if nbytes},
        lease_holders={row["pid"]: row["bytes_viewed"] for row in processes if row["views"]},
        leaves_in_s=answer["leaves_in_ns"] / 1e9 if answer["leaves_in_ns"] is not None else None,
    )


def _subscriber_statistics(answer: dict[str, Any]) -> SubscriberStatistics:
    return SubscriberStatistics(
        name=answer["name"],
        config=unpack_config(answer["config"]),
        host=answer["host"] or None,
        queued=answer["queued"],
        sent=answer["in_flight"],
        completed=answer["completed"],
        skipped=answer["skipped"],
        redelivered=answer["redelivered"],
        recent_skips=tuple((event_id, reason) for event_id, reason in answer["recent_skips"]),
        reasons=answer["skip_reasons"],
        grace_left_s=answer["grace_left_ns"] / 1e9 if answer["grace_left_ns"] is not None else None,
    )


def describing_holders(connection: Connection) -> Steps[str]:
    """The steps to who holds the memory, in one line: for errors, which do not wait for a manager that hangs."""
    number = connection.call(connection.protocol.request, GetSnapshot, 0)
    if not (yield happening(number, HOLDERS_TIMEOUT_S)):
        return "the manager does not answer"
    return _holders_text(bus_statistics(connection.protocol.take_reply(number), connection.manager_pid))


def _holders_text(now: BusStatistics) -> str:
    waiting = [
        f"{item.key.text} has {item.sent} events in flight and {item.queued} queued"
        for item in sorted(now.subscribers, key=lambda item: -(item.sent + item.queued))[:3]
        if item.sent or item.queued
    ]
    writers = [f"process {pid} wrote {nbytes} bytes of it" for pid, nbytes in now.span_holders.items() if pid]
    return (
        f"{now.memory_bytes_used} of {now.memory_bytes_max} bytes are in use, "
        f"{now.memory_bytes_leased} of them kept by views, for {now.events_unsettled} unsettled events "
        f"({'; '.join([*waiting, *writers]) or 'nobody is named'})"
    )
