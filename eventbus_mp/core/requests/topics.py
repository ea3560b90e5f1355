"""Requests about topics: registering, looking up, listing."""

from __future__ import annotations

from eventbus_mp.core.bounds import resolved
from eventbus_mp.core.lifecycle import announce
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.handling import ANSWERED_LATER, handles
from eventbus_mp.core.requirements import missing_subscribers, tell_unmet
from eventbus_mp.core.skips import drop_topic
from eventbus_mp.core.state import RoomWaiter, Step, check_waits
from eventbus_mp.errors import ProtocolError
from eventbus_mp.geometry import REQUIRED_MAX
from eventbus_mp.protocol import requests


@handles(requests.RegisterTopic)
def register_topic(step: Step, link: LinkState, message: requests.RegisterTopic) -> bool:
    return bool(_register(step, link, [message.name]))


@handles(requests.RegisterTopics)
def register_topics(step: Step, link: LinkState, message: requests.RegisterTopics) -> list[str]:
    return _register(step, link, message.names)


def _register(step: Step, link: LinkState, names: list[str]) -> list[str]:
    """The names of those that are new."""
    new = [topic.name for topic in step.state.registry.register_all(names)]
    for name in new:
        step.state.changes.note_topic("topic_registered", name)
        if name != step.state.config.lifecycle_topic:
            announce(step, "topic_registered", topic=name, pid=link.pid)
    return new


@handles(requests.UnregisterTopic)
def unregister_topic(step: Step, link: LinkState, message: requests.UnregisterTopic) -> bool:
    topic = step.state.registry.unregister(message.name)
    if topic is not None:
        step.state.changes.note_topic("topic_unregistered", message.name)
        drop_topic(step, topic)
        tell_unmet(step)
        announce(step, "topic_unregistered", topic=message.name, pid=link.pid)
    return topic is not None


@handles(requests.ListTopics)
def list_topics(step: Step, link: LinkState, message: requests.ListTopics) -> list[str]:
    return sorted(step.state.registry.topics)


@handles(requests.ResolveTopic)
def resolve_topic(step: Step, link: LinkState, message: requests.ResolveTopic) -> list[object]:
    return resolved(step.state, link, message.name)


@handles(requests.AwaitRoom)
def await_room(step: Step, link: LinkState, message: requests.AwaitRoom) -> object:
    state = step.state
    check_waits(sum(waiter.link == link.number for waiter in state.room_waiters), "topics with room")
    state.room_waiters.append(RoomWaiter(link.number, message.request, message.name))
    state.room_freed = True  # It is answered at the end of this message if there is nothing to wait for.
    return ANSWERED_LATER


@handles(requests.RequireSubscribers)
def require_subscribers(step: Step, link: LinkState, message: requests.RequireSubscribers) -> list[object]:
    if len(message.names) > REQUIRED_MAX:
        raise ProtocolError(f"it requires {len(message.names)} subscribers")
    if link.required != tuple(message.names):
        # It has forgotten what it asked with other names. One list for all topics bounds what a process can cost.
        link.required, link.required_topics = tuple(message.names), set()
    topic = step.state.registry.topics.get(message.topic)
    missing = missing_subscribers(topic, message.names)
    if topic is None or missing:
        return [0, missing, None]
    link.required_topics.add(topic.number)
    return [topic.number, [], resolved(step.state, link, message.topic)[2]]


@handles(requests.NameTopic)
def name_topic(step: Step, link: LinkState, message: requests.NameTopic) -> str | None:
    topic = step.state.registry.topic_by_number.get(message.topic)
    return topic.name if topic else None
