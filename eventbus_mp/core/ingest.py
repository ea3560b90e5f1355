"""Taking in what a producer notified: from a batch of any events to runs, which have one route and one span each."""

from __future__ import annotations

from operator import add
from typing import Any

from eventbus_mp.core.batches import SEQUENCE_BUCKET_EVENTS, EventBatch, bits
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.registry import NOBODY, Route, Topic
from eventbus_mp.core.spans import Span
from eventbus_mp.core.state import BusState
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol.effects import Effect, Reply, TellTopicStale
from eventbus_mp.protocol.messages import EventsNotified

__all__ = ["ingest"]

PAYLOAD_BYTES_MIN = 64
"""A payload's header (memory/layout.py), which the core does not know more of."""
EMPTY_WATCHER: list[list[Any]] = [[], [], []]


def ingest(
    state: BusState, link: LinkState, message: EventsNotified, start: int, now_ns: int, effects: list[Effect]
) -> int:
    """Take in the events from `start` on that can be of one run: where they end."""
    first = message.first + start
    span = _written_span(state, link, message, start)
    stop = _end_in_span(
        span, message, start, min(len(message.topics), start + SEQUENCE_BUCKET_EVENTS - first % SEQUENCE_BUCKET_EVENTS)
    )
    topics, route, stop = _routed(state, message, start, stop)
    _fill(span, message.lengths[start:stop])
    if not route.subscribers:
        _drop(state, link, message, start, stop, effects)
        return stop
    # Only the newest run grows: so the order of runs is the order of events.
    batch = state.batches.newest
    if batch is None or batch.route is not route or batch.span is not span or not batch.continues_with(first):
        batch = EventBatch(first, route, span)
    mask = state.append_batch(batch, message.packed[start * RECORD_BYTES : stop * RECORD_BYTES], topics, stop - start)
    state.event_log.record(now_ns, f"notified by process {link.pid}", batch.first, mask)
    shift = first - batch.first
    for index in range(start, stop) if message.deadlines else ():
        if index in message.deadlines:
            state.expiry.add(batch, index - start + shift, message.deadlines[index])
    if message.awaited:
        awaited = (message.awaited >> start & (1 << stop - start) - 1) << shift
        batch.awaited |= awaited
        for index in bits(awaited):
            state.awaited[batch.first + index] = link.number
    return stop


def _routed(state: BusState, message: EventsNotified, start: int, stop: int) -> tuple[list[Topic], Route, int]:
    """The topics (one for all, or one an event) of the events from `start` on that have one route: where they end.

    Without a route there are no topics.
    """
    numbers, topics = message.topics, state.registry.topic_by_number
    first = topics.get(numbers[start])
    route = first.route if first is not None else NOBODY
    found = [first] if first is not None else []
    if numbers.count(numbers[start]) == len(numbers):
        return found, route, stop
    several = list(map(topics.get, numbers[start:stop]))
    kinds = set(several)
    if None not in kinds and all(topic.route is route for topic in kinds):  # type: ignore[union-attr]
        return several, route, stop  # type: ignore[return-value]
    for index in range(start + 1, stop):
        topic = topics.get(numbers[index])
        if (topic.route if topic is not None else NOBODY) is not route:
            return found, route, index
        if topic is not None:
            found.append(topic)
    return found, route, stop


def _drop(
    state: BusState, link: LinkState, message: EventsNotified, start: int, stop: int, effects: list[Effect]
) -> None:
    """Nobody is subscribed to these."""
    state.events_dropped += stop - start
    for index in range(start, stop):
        topic = message.topics[index]
        if not state.registry.was_registered(topic):
            raise ProtocolError(f"topic number {topic} was never given out")
        if message.awaited >> index & 1:
            effects.append(Reply(link.number, message.first + index, EMPTY_WATCHER))
        if topic not in link.stale_reported:
            link.stale_reported.add(topic)
            effects.append(TellTopicStale(link.number, topic, 1))


def _written_span(state: BusState, link: LinkState, message: EventsNotified, index: int) -> Span:
    segment, offset, length = message.segments[index], message.offsets[index], message.lengths[index]
    span = state.spans.find(segment, offset)
    if span is None or span.writer != link.number or span.sealed or offset + length > span.end:
        raise ProtocolError(f"an event at {segment}+{offset}, {length} bytes, is not in a span that it may write")
    span.backed = True  # Its writer backs it before the first byte.
    return span


def _end_in_span(span: Span, message: EventsNotified, start: int, stop: int) -> int:
    """Where the events from `start` on, up to `stop`, leave the span; the first one is known to be in it."""
    if stop - start == 1:
        return stop
    segments, offsets = message.segments[start:stop], message.offsets[start:stop]
    ends = list(map(add, offsets, message.lengths[start:stop]))
    if segments.count(span.segment) == len(segments) and min(offsets) >= span.start and max(ends) <= span.end:
        return stop
    for index, (segment, offset, end) in enumerate(zip(segments, offsets, ends, strict=True)):
        if segment != span.segment or offset < span.start or end > span.end:
            return start + index
    return stop


def _fill(span: Span, lengths: list[int]) -> None:
    """Count what is written: so a span's size bounds the events in it, whatever its writer says."""
    if min(lengths) < PAYLOAD_BYTES_MIN:
        raise ProtocolError(f"an event of {min(lengths)} bytes is shorter than its header")
    span.filled += sum(lengths)
    if span.filled > span.length:
        raise ProtocolError(f"the span at {span.segment}+{span.start} got {span.filled} bytes, more than it has")
