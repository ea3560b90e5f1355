"""Bounds on what a subscriber has unsettled: events that are skipped for it, and producers that wait.

A producer that publishes to a topic with a bounded subscriber asks for the topic's number again and again, and hears
each time how many events it may send before it asks the next time. So nothing is looked at on the way of an event, and
the bound is soft: what all producers may send at once is half of the room, or one event each. While there is no room, a
producer waits for it (`requests.AwaitRoom`).

A process that has the topic's number from before the bound hears that it is stale, with its next event.
"""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.backlog import Backlog
from eventbus_mp.core.entities import SubscriberState
from eventbus_mp.core.event_batch import EventBatch, Topic
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.settlement import settle_waiting
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol.client_events import TopicStale
from eventbus_mp.protocol.effects import Reply, Tell, Warn
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import Outcome

__all__ = ["answer_room", "have_ask", "resolved", "room_of", "set_bound", "shed"]

WARNING_NS = 60 * 10**9
"""A backlog that is full is warned of this often."""


def set_bound(state: BusState, subscriber: SubscriberState, terms: tuple[int, int, str]) -> None:
    """From now on the subscriber has this bound; two zeros: none. What it has already counts, and stays."""
    backlog = Backlog(*terms) if terms[0] or terms[1] else None
    if (subscriber.backlog.terms if subscriber.backlog else None) == (backlog.terms if backlog else None):
        return
    if backlog is not None:
        for batch in state.batches:
            row = batch.route.row_of.get(subscriber.number)
            if row is not None and batch.unsettled[row]:
                backlog.add(batch, batch.unsettled[row])
    state.registry.set_backlog(subscriber, backlog)


# --- skipping ---


def shed(step: Step, batch: EventBatch, mask: int) -> None:
    """Skip what subscribers with such a bound have no room for, of events that were just queued."""
    for row, subscriber in batch.route.bounded:
        backlog = subscriber.backlog
        if backlog.when_full != "skip":
            continue
        for over, reason in backlog.excess(batch, mask & batch.unsettled[row]):
            if backlog.warned_ns is None or step.now_ns - backlog.warned_ns >= WARNING_NS:
                backlog.warned_ns = step.now_ns
                step.effects.append(Warn(f"{subscriber.shown}: {reason}, and what comes is skipped for it"))
            step.log(HistoryKind.SKIPPED, batch, over, subscriber, reason)
            settle_waiting(step, batch, over, subscriber, Outcome.SKIPPED, reason)


# --- waiting ---


def room_of(state: BusState, topic: Topic) -> int | list[list[Any]] | None:
    """How many events a process may send to the topic before it asks again; None: any number. If there is no room, what
    is in the way: [name, config, host, events, events_max, bytes, bytes_max] for each subscriber."""
    blocking = _blocking(topic)
    if not blocking:
        return None
    full = [
        [*item.key, backlog.events, backlog.events_max, backlog.nbytes, backlog.bytes_max]
        for item, backlog in blocking
        if backlog.is_full
    ]
    return full or min(backlog.allowance(len(state.links)) for _, backlog in blocking)


def _blocking(topic: Topic) -> list[tuple[SubscriberState, Backlog]]:
    return [(item, item.backlog) for _, item in topic.route.bounded if item.backlog.when_full == "block"]


def resolved(state: BusState, link: LinkState, name: str) -> list[Any]:
    """The answer to `ResolveTopic`."""
    topic = state.registry.topics.get(name)
    if topic is None:
        return [0, False, None]
    room = room_of(state, topic)
    if room is None:
        link.stale_reported.discard(topic.number)  # It knows better now; the next change is reported again.
    else:
        link.stale_reported.add(topic.number)  # It asks by itself.
    return [topic.number, bool(topic.route.subscribers), room]


def have_ask(step: Step, link: LinkState, topics: list[Topic]) -> None:
    """The process has published to these topics, which have one route: if a subscriber has a bound for which producers
    wait, it has to ask from now on."""
    if not _blocking(topics[0]):
        return
    for topic in topics:
        if topic.number not in link.stale_reported:
            link.stale_reported.add(topic.number)
            step.effects.append(Tell(link.number, TopicStale(topic.number, 0)))


def answer_room(step: Step) -> None:
    """Answer those who wait for room where there is some by now, or nothing in the way any more."""
    state, version = step.state, step.state.registry.version
    if not state.room_freed and state.room_version == version:
        return
    state.room_freed, state.room_version = False, version
    waiting = []
    for waiter in state.room_waiters:
        topic = state.registry.topics.get(waiter.topic)
        if topic is not None and isinstance(room_of(state, topic), list):
            waiting.append(waiter)
        else:
            answer = resolved(state, state.links[waiter.link], waiter.topic)
            step.effects.append(Reply(waiter.link, waiter.request, answer))
    state.room_waiters = waiting
