"""Backpressure: when memory is short, the later stages of a pipeline come first.

A handler that publishes turns one event into others. If the stages after it are slower, what waits for them grows, and
takes the memory that they need. So the manager learns which subscribers publish to which topics: a handler says so
whenever it asks for memory. While memory is short, a subscriber whose output waits in quantity gets nothing more, and
what it was sent and has not begun is called back; its processes may host the later stages as well, and come to those.

Where stages form a circle, each is after the other, and none of them waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import Topic
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol.client_events import Recalled
from eventbus_mp.protocol.effects import Tell

__all__ = ["hold_back", "note_output"]

SHORT_SHARE = 3 / 4
"""Memory is short when this share of it is in use."""
BACKLOG_SHARE = 1 / 16
"""How much of the memory what waits for later stages may take: half of the reserve (allocator/spans.py)."""


def note_output(step: Step, link: LinkState, number: int, topic: int) -> None:
    """A handler of this subscriber publishes to this topic, and needs memory for it.

    What is not known, or not hosted there, is ignored.
    """
    endpoint = link.endpoints.get(number)
    if endpoint is None or topic not in step.state.registry.topic_by_number:
        return
    subscriber = endpoint.subscriber
    if topic not in subscriber.outputs:
        subscriber.outputs = {*subscriber.outputs, topic}
        step.state.downstream.clear()
    was_held = subscriber in step.state.held
    # It may have been sent all there is already, and then nobody else asks.
    if not hold_back(step, subscriber) and was_held:
        step.state.dirty[subscriber] = None


def hold_back(step: Step, subscriber: SubscriberState) -> bool:
    """Have a subscriber that publishes wait while later stages are behind, or no longer -> whether it waits."""
    held = step.state.held
    if _must_wait(step.state, subscriber):
        if subscriber not in held:
            held[subscriber] = None
            _call_back(step, subscriber)
        return True
    held.pop(subscriber, None)
    return False


def _must_wait(state: BusState, subscriber: SubscriberState) -> bool:
    spans = state.spans
    if spans.total_bytes < spans.memory_bytes_max * SHORT_SHARE:
        return False
    later = _topics_after(state, subscriber)
    if sum(topic.nbytes for topic in later) < spans.memory_bytes_max * BACKLOG_SHARE:
        return False
    return any(_has_backlog(consumer) for topic in later for consumer in topic.route.subscribers)


def _has_backlog(consumer: SubscriberState) -> bool:
    """Whether it has more than it can begin now, so that it needs no more from the stages before.

    What a process has taken does not count, nor what it holds below a credit of its own choice: it may be waiting for
    more, as one that makes batches does.
    """
    if consumer.queued:
        return True
    return any(item.untaken > item.threads and (item.is_automatic or item.free <= 0) for item in consumer.endpoints)


def _call_back(step: Step, subscriber: SubscriberState) -> None:
    for endpoint in subscriber.endpoints:
        # One of them each of its threads may be working on.
        if endpoint.untaken > endpoint.threads and not endpoint.owes_all and not endpoint.is_resyncing:
            endpoint.owes_all = True
            endpoint.demand = 0
            step.effects.append(Tell(endpoint.link, Recalled(subscriber.number, 0)))


def _topics_after(state: BusState, subscriber: SubscriberState) -> tuple[Topic, ...]:
    """The topics whose events come of this subscriber's work, by however many stages, and never lead back to it."""
    version = state.registry.version
    known = state.downstream.get(subscriber)
    if known is None or known[0] != version:
        state.downstream = {item: found for item, found in state.downstream.items() if found[0] == version}
        topics, _ = _reached(state, subscriber.outputs)
        later = tuple(topic for topic in topics if subscriber not in _reached(state, (topic.number,))[1])
        known = state.downstream[subscriber] = version, later
    return known[1]


def _reached(state: BusState, numbers: Iterable[int]) -> tuple[list[Topic], set[SubscriberState]]:
    """All topics, and their subscribers, that events of these topics lead to."""
    topics: dict[int, Topic] = {}
    consumers: set[SubscriberState] = set()
    ahead = list(numbers)
    while ahead:
        topic = state.registry.topic_by_number.get(ahead.pop())
        if topic is None or topic.number in topics:
            continue
        topics[topic.number] = topic
        for consumer in topic.route.subscribers:
            if consumer not in consumers:
                consumers.add(consumer)
                ahead += consumer.outputs
    return list(topics.values()), consumers
