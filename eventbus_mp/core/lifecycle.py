"""Events about the bus itself: one for each topic, subscriber and process that comes or goes, on `lifecycle_topic`.

They are ordinary events, but the core makes them: it finds room, packs the data and queues the deliveries in the step
in which the thing happens, and has the manager write the bytes (`WriteEvent`) before they are delivered. They lie in
segments of their own, in which nothing is ever written at a place twice. So a new manager that repeats the messages of
the one before it writes the same bytes to the same places.

Nothing here is about the topic itself or its subscribers: such an event would cause the next one.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgpack

from eventbus_mp.core.bounds import shed
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.ingest import append_batch
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.span_requests import recycle_if_free
from eventbus_mp.core.state import Step
from eventbus_mp.geometry import CHUNK_BYTES, PAYLOAD_ALIGNMENT, SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol.effects import Warn, WriteEvent
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.records import pack_notified

__all__ = ["announce", "announce_process", "announce_takeover", "concerns_itself", "write_waiting"]

WAITING_MAX = 1_000
"""How many events wait for memory; those after them are lost, with a warning."""
DATA_BYTES_MAX = 1 << 16
WRITER = 0
"""The number of no link."""
FIRST = 1 << SEQUENCE_LINK_SHIFT - 1


def announce(step: Step, action: str, **facts: Any) -> None:
    """Publish that this has happened, if somebody is subscribed to hear it."""
    state = step.state
    if state.config.lifecycle_topic is None or _heard_topic(step) is None:
        return
    data = msgpack.packb({"action": action, "at_ns": step.now_ns, **facts})
    if len(data) > DATA_BYTES_MAX:  # A subscriber may have any number of patterns.
        data = msgpack.packb({"action": action, "at_ns": step.now_ns, **facts, "patterns": None})
    if len(state.lifecycle_waiting) >= WAITING_MAX:
        step.effects.append(Warn(f"the memory is full: no event says that {action}"))
        return
    state.lifecycle_waiting.append(data)
    write_waiting(step)


def announce_process(step: Step, link: LinkState) -> None:
    """A process has asked for something for the first time, so it does more than look on."""
    if link.number in step.state.unannounced and not link.observes:
        step.state.unannounced.remove(link.number)
        announce(step, "process_connected", pid=link.pid, role=link.role)


def announce_takeover(step: Step) -> None:
    """Another manager goes on. It is said with the first process's report, which is the first thing that is repeated if
    that manager dies as well."""
    if step.state.is_takeover_unannounced:
        step.state.is_takeover_unannounced = False
        announce(step, "manager_replaced", takeovers=step.state.takeovers)


def concerns_itself(step: Step, subscriber: SubscriberState) -> bool:
    """Whether the subscriber gets the events about the bus, so that none is about it."""
    name = step.state.config.lifecycle_topic
    return name is not None and subscriber.wants(name)


def write_waiting(step: Step) -> None:
    """Make events of what waits, while there is memory."""
    state = step.state
    while state.lifecycle_waiting:
        topic = _heard_topic(step)
        if topic is None:
            state.lifecycle_waiting.clear()
        elif not _write(step, topic, state.lifecycle_waiting[0]):
            return
        else:
            state.lifecycle_waiting.popleft()


def _heard_topic(step: Step) -> Topic | None:
    """The topic, if anybody is subscribed to it."""
    topic = step.state.registry.topics.get(step.state.config.lifecycle_topic or "")
    return topic if topic is not None and topic.route.subscribers else None


def _write(step: Step, topic: Topic, data: bytes) -> bool:
    """Whether there was memory for the event."""
    state = step.state
    serial = state.lifecycle_serial + 1
    # When the bus began makes the numbers its own: an event of an earlier bus of this name is not taken for one of it.
    sequence = FIRST + (state.started_ns // 1_000 & FIRST - 1 >> 1) + serial
    event_id = f"{state.started_ns:x}-{serial}"
    length = -(-(PAYLOAD_ALIGNMENT + len(event_id) + len(data)) // PAYLOAD_ALIGNMENT) * PAYLOAD_ALIGNMENT
    span = state.lifecycle_span
    if span is not None and span.start + span.filled + length > span.end:
        span.sealed = True
        recycle_if_free(step, span)
        span = None
    if span is None:
        state.lifecycle_span = span = state.spans.allocate_alone(CHUNK_BYTES, WRITER, step.effects)
        if span is None:
            return False
    state.lifecycle_serial = serial
    offset = span.start + span.filled
    span.filled += length
    step.effects.append(WriteEvent(span.segment, offset, sequence, event_id, data))
    packed = pack_notified(topic.number, span.segment, offset, length, 0, sequence, False, crc32(event_id.encode()))
    batch = EventBatch(sequence, topic.route, span, step.now_ns)
    append_batch(step, batch, packed, [topic], 1)
    batch.nbytes = length
    state.events_notified += 1
    topic.notified += 1
    topic.delivered += len(topic.route.subscribers)
    topic.nbytes += length
    step.log(HistoryKind.NOTIFIED, batch, 1)
    shed(step, batch, 1)
    return True
