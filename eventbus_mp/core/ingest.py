"""Taking in what a producer notified: from a message of any events to batches, which have one route and one span
each."""

from __future__ import annotations

from operator import add

from eventbus_mp.core.allocator.spans import Span
from eventbus_mp.core.bounds import have_ask, shed
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import NOBODY, EventBatch, Route, Topic
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.masks import SEQUENCE_BUCKET_EVENTS, bits
from eventbus_mp.core.receipts import note_arrived
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.core.watchers import EMPTY_WATCHER
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import PAYLOAD_ALIGNMENT, RECORD_BYTES, SEQUENCE_LINK_SHIFT
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.effects import Reply, Tell
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import EventsNotified

__all__ = ["append_batch", "on_notified"]

NOTIFIED = HistoryKind.NOTIFIED  # A look-up in an enumeration's class is a call before Python 3.12.


def on_notified(step: Step, message: EventsNotified) -> None:
    """Take in the events, in as many batches as they need; mostly it is one."""
    state = step.state
    link = state.link(message.link)
    count = len(message.topics)
    last = message.first + count - 1
    if not link.last_sequence < message.first or last >> SEQUENCE_LINK_SHIFT != link.number:
        raise ProtocolError(f"sequence {message.first:#x} does not follow {link.last_sequence:#x}")
    link.last_sequence = last
    state.events_notified += count
    start = 0
    while start < count:
        start = _ingest(step, link, message, start)


def _ingest(step: Step, link: LinkState, message: EventsNotified, start: int) -> int:
    """Take in the events from `start` on that fit into one batch: the index where they end."""
    state = step.state
    first = message.first + start
    span = _written_span(state, link, message, start)
    stop = len(message.topics)
    if stop > 1:  # else: it is in its span.
        in_bucket = start + SEQUENCE_BUCKET_EVENTS - first % SEQUENCE_BUCKET_EVENTS
        stop = _end_in_span(span, message, start, min(stop, in_bucket))
    if link.direction is None:
        topics, route, stop = _routed(state, message, start, stop)
    else:
        topics, route, stop = link.direction.routed(state.registry, message.topics, start, stop)
    if stop - start == 1:
        nbytes = shortest = message.lengths[start]
    else:
        lengths = message.lengths[start:stop]
        nbytes, shortest = sum(lengths), min(lengths)
    _fill(span, nbytes, shortest)
    if not route.subscribers:
        _drop(step, link, message, start, stop)
        if link.tagged:
            note_arrived(step.state, link, None, first, stop - start)
        return stop
    # Only the newest batch grows: so the order of batches is the order of events.
    batch = state.batches.newest
    if batch is None or batch.route is not route or batch.span is not span or not batch.continues_with(first):
        batch = EventBatch(first, route, span, step.now_ns)
    mask = append_batch(step, batch, message.packed[start * RECORD_BYTES : stop * RECORD_BYTES], topics, stop - start)
    batch.nbytes += nbytes
    if len(topics) == 1:
        topic = topics[0]
        topic.notified += stop - start
        topic.delivered += (stop - start) * len(route.subscribers)
        topic.nbytes += nbytes
    else:
        _count_each(topics, len(route.subscribers), message.lengths[start:stop])
    state.event_log.append((step.now_ns, NOTIFIED, batch.first, mask, batch.topics, link.pid, None, None))
    if link.tagged:
        note_arrived(state, link, batch, first, stop - start)
    shift = first - batch.first
    for index in range(start, stop) if message.deadlines else ():
        if index in message.deadlines:
            state.expiry.add(batch, index - start + shift, message.deadlines[index])
    if message.awaited:
        awaited = (message.awaited >> start & (1 << stop - start) - 1) << shift
        batch.awaited |= awaited
        for index in bits(awaited):
            state.awaited[batch.first + index] = link.number
    if route.bounded:
        have_ask(step, link, topics)
        shed(step, batch, mask)
    return stop


def _count_each(topics: list[Topic], subscribers: int, lengths: list[int]) -> None:
    for topic, length in zip(topics, lengths, strict=True):
        topic.notified += 1
        topic.delivered += subscribers
        topic.nbytes += length


def append_batch(step: Step, batch: EventBatch, packed: bytes, topics: list[Topic], count: int) -> int:
    """Append events to a batch, new or the newest, and queue their deliveries: the mask of the new events.

    `topics` is one for all of them, or one for each.
    """
    state = step.state
    if not batch.count:
        state.batches.add(batch)
        batch.span.live += 1
    mask = batch.add(packed, topics, count)
    dirty = state.dirty
    for row, subscriber in enumerate(batch.route.subscribers):
        if not batch.waiting[row]:
            subscriber.queue.append(batch)
        batch.waiting[row] |= mask
        batch.unsettled[row] |= mask
        subscriber.queued += count
        dirty[subscriber] = None
    for _, bounded in batch.route.bounded:
        bounded.backlog.add(batch, mask)
    if len(topics) == 1:
        topics[0].unsettled += count
        topics[0].batches[batch] = None
    else:
        for topic in topics:
            topic.unsettled += 1
            topic.batches[batch] = None
    return mask


def _routed(
    state: BusState, message: EventsNotified, start: int, stop: int
) -> tuple[list[Topic], Route[SubscriberState], int]:
    """Which of the events from `start` on have one route: their topics, the route, and the index where they end.

    The topics are one for all events, or one for each. An event of a topic that is gone has the route to nobody.
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


def _drop(step: Step, link: LinkState, message: EventsNotified, start: int, stop: int) -> None:
    """Nobody is subscribed to these."""
    step.state.events_dropped += stop - start
    for index in range(start, stop):
        topic = message.topics[index]
        if not step.state.registry.was_registered(topic):
            raise ProtocolError(f"topic number {topic} was never given out")
        known = step.state.registry.topic_by_number.get(topic)
        if known is not None:
            known.notified += 1
            known.dropped += 1
        if message.awaited >> index & 1:
            step.effects.append(Reply(link.number, message.first + index, EMPTY_WATCHER))
        if topic not in link.stale_reported:
            link.stale_reported.add(topic)
            step.effects.append(Tell(link.number, TopicStale(topic, 1)))


def _written_span(state: BusState, link: LinkState, message: EventsNotified, index: int) -> Span:
    segment, offset, length = message.segments[index], message.offsets[index], message.lengths[index]
    span = state.spans.find(segment, offset)
    if span is None or span.writer != link.number or span.sealed or offset + length > span.end:
        raise ProtocolError(f"an event at {segment}+{offset}, {length} bytes, is not in a span that it may write")
    span.backed = True  # Its writer backs it before the first byte.
    return span


def _end_in_span(span: Span, message: EventsNotified, start: int, stop: int) -> int:
    """Where the events from `start` on leave the span, at most `stop`; the first one is known to be in it."""
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


def _fill(span: Span, nbytes: int, shortest: int) -> None:
    """Count what is written: so a span's size bounds the number of events in it, whatever its writer says."""
    if shortest < PAYLOAD_ALIGNMENT:
        raise ProtocolError(f"an event of {shortest} bytes is shorter than its header")
    span.filled += nbytes
    if span.filled > span.length:
        raise ProtocolError(f"the span at {span.segment}+{span.start} got {span.filled} bytes, more than it has")
