"""Producers that publish to a topic only while certain subscribers get its events, and when they hear of a change.

A producer asks once (`RequireSubscribers`), and publishes from then on without asking. So the core notes what it was
promised, and tells it when that is no longer true. What the producer publishes until it hears of it is delivered to the
subscribers that are left.
"""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_mp.core.event_batch import Topic
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.effects import Tell

__all__ = ["missing_subscribers", "tell_unmet"]


def missing_subscribers(topic: Topic | None, names: Iterable[str]) -> list[str]:
    """Those of the names that no subscriber of the topic has."""
    present = {subscriber.shown for subscriber in topic.route.subscribers} if topic is not None else set()
    return [name for name in names if name not in present]


def tell_unmet(step: Step) -> None:
    """Subscribers or topics have gone: tell every producer that requires one of them, once."""
    topics = step.state.registry.topic_by_number
    for link in step.state.links.values():
        for number in sorted(link.required_topics) if link.required_topics else ():
            if missing_subscribers(topics.get(number), link.required):
                link.required_topics.discard(number)
                step.effects.append(Tell(link.number, TopicStale(number, 0)))
