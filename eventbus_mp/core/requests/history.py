"""Questions about what happened: events by their ids, settled ones too, and entries of the event log."""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import Any

from eventbus_mp.core.entities import shown_name
from eventbus_mp.core.event_log import LogEntry, places_of_id, topics_of
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.state import Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.records import U32_MAX

FOUND_MAX = 16
"""Events with one CRC: two ids out of four billion have the same one, so all but the newest are uses of the same id."""
PAGE_MAX = 1_000

_time_of = itemgetter(0)


@handles(requests.FindEvents)
def find_events(step: Step, link: LinkState, message: requests.FindEvents) -> bytes:
    state = step.state
    if not 0 <= message.id_crc <= U32_MAX:
        raise ProtocolError(f"it looked for an id with CRC {message.id_crc}")
    topic = state.registry.topics.get(message.topic)
    found = []
    for batch in reversed(topic.batches) if topic is not None else ():
        wanted = -1 if message.settled else batch.any_unsettled()
        for at in places_of_id(batch.packed, 0, len(batch.packed), message.id_crc):
            index = at // RECORD_BYTES
            if wanted >> index & 1 and batch.topic_of(index) is topic:
                found.append(batch.packed[at : at + RECORD_BYTES])
        if len(found) >= FOUND_MAX:
            break
    if message.settled:
        found += state.event_log.ended.find(state.registry.number_of(message.topic), message.id_crc, FOUND_MAX)
    return b"".join(found[:FOUND_MAX])


@handles(requests.GetHistory)
def get_history(step: Step, link: LinkState, message: requests.GetHistory) -> dict[str, Any]:
    log = step.state.event_log.entries()
    since_ns = step.now_ns - message.since_ns if message.since_ns else 0
    stop = len(log)
    if len(message.before) == 2:
        time_ns, older = message.before
        stop = min(bisect_left(log, time_ns, key=_time_of) + older, stop)
    limit = min(max(message.limit, 1), PAGE_MAX)
    page: list[int] = []
    rows: list[list[Any]] = []
    counts: dict[int, int] = {}
    is_more = False
    for index in range(len(log) - 1, -1, -1):
        entry = log[index]
        if entry[0] < since_ns:
            break
        mask = _wanted(entry, message)
        if mask is None:
            continue
        events = mask.bit_count()
        counts[entry[1]] = counts.get(entry[1], 0) + (events or 1)
        if index < stop and len(page) < limit:
            page.append(index)
            rows.append(_row(entry, mask, events))
        elif index < stop:
            is_more = True
    before = None
    if is_more:
        time_ns = log[page[-1]][0]
        before = [time_ns, page[-1] - bisect_left(log, time_ns, key=_time_of)]
    return {"entries": rows, "counts": counts, "before": before, "now_ns": step.now_ns}


def _wanted(entry: LogEntry, message: requests.GetHistory) -> int | None:
    """The mask of those of an entry's events that are asked for; None: the entry is not."""
    _, kind, first, mask, topics, _, key, _ = entry
    if message.kind and kind != message.kind:
        return None
    if message.subscriber is not None and (key is None or shown_name(key) != message.subscriber):
        return None
    if not mask:  # It is about no event.
        return None if message.sequence or message.topic is not None else 0
    if message.sequence:
        mask &= 1 << message.sequence - first if first <= message.sequence < first + mask.bit_length() else 0
    if message.topic is not None:
        if len(topics) > 1:
            mask &= sum(1 << index for index, topic in enumerate(topics) if topic.name == message.topic)
        elif topics[0].name != message.topic:
            return None
    return mask or None


def _row(entry: LogEntry, mask: int, events: int) -> list[Any]:
    now_ns, kind, _, _, topics, pid, key, detail = entry
    name, config, host = key if key is not None else (None, None, None)
    return [now_ns, kind, events, [topic.name for topic in topics_of(topics, mask)], pid, name, config, host, detail]
