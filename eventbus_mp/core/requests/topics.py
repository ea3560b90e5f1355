"""Requests about topics: registering, looking up, listing."""

from __future__ import annotations

from eventbus_mp.core.links import LinkState
from eventbus_mp.core.skips import drop_topic
from eventbus_mp.core.state import Step
from eventbus_mp.protocol import requests

__all__ = ["list_topics", "name_topic", "register_topic", "register_topics", "resolve_topic", "unregister_topic"]


def register_topic(step: Step, link: LinkState, message: requests.RegisterTopic) -> bool:
    return bool(step.state.registry.register_all([message.name]))


def register_topics(step: Step, link: LinkState, message: requests.RegisterTopics) -> list[str]:
    return [topic.name for topic in step.state.registry.register_all(message.names)]


def unregister_topic(step: Step, link: LinkState, message: requests.UnregisterTopic) -> bool:
    topic = step.state.registry.unregister(message.name)
    if topic is not None:
        drop_topic(step, topic)
    return topic is not None


def list_topics(step: Step, link: LinkState, message: requests.ListTopics) -> list[str]:
    return sorted(step.state.registry.topics)


def resolve_topic(step: Step, link: LinkState, message: requests.ResolveTopic) -> list[object]:
    topic = step.state.registry.topics.get(message.name)
    if topic is None:
        return [0, False]
    link.stale_reported.discard(topic.number)  # It knows better now; the next change is reported again.
    return [topic.number, bool(topic.route.subscribers)]


def name_topic(step: Step, link: LinkState, message: requests.NameTopic) -> str | None:
    topic = step.state.registry.topic_by_number.get(message.topic)
    return topic.name if topic else None
