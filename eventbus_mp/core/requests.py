"""What the core answers to requests: topics, subscriptions, marks, questions.

Each handler gets (core, link, request, now_ns), changes the ledger, and returns the answer, or `UNANSWERED`; further
effects go to `core.effects`. A `UsageError` it raises becomes the answer. The table at the bottom is the list of
everything that a client can ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eventbus_mp import messages
from eventbus_mp.core.dispatcher import Endpoint
from eventbus_mp.core.ledger import DrainWaiter
from eventbus_mp.core.links import LinkState, check_waits
from eventbus_mp.core.registry import SubscriberState, compile_pattern
from eventbus_mp.core.runs import BLOCK_SHIFT, Run, bits
from eventbus_mp.core.watcher import describe
from eventbus_mp.effects import Deliver, Reply, Stop, Warn
from eventbus_mp.errors import NotSubscribed, ProtocolError
from eventbus_mp.messages import Outcome, Request

if TYPE_CHECKING:
    from eventbus_mp.core.bus import BusCore

__all__ = ["REQUEST_HANDLERS"]

REASON_LENGTH_MAX = 500
COMPARED_MAX = 1 << 21
"""More deliveries than an endpoint can hold."""


def _register_topic(core: BusCore, link: LinkState, message: messages.RegisterTopic, now_ns: int) -> Any:
    known = message.name in core.ledger.registry.topics
    core.ledger.registry.register(message.name)
    return not known


def _unregister_topic(core: BusCore, link: LinkState, message: messages.UnregisterTopic, now_ns: int) -> Any:
    topic = core.ledger.registry.unregister(message.name)
    if topic is not None:
        core.ledger.drop_topic(topic, core.effects)
    return topic is not None


def _list_topics(core: BusCore, link: LinkState, message: messages.ListTopics, now_ns: int) -> Any:
    return sorted(core.ledger.registry.topics)


def _resolve_topic(core: BusCore, link: LinkState, message: messages.ResolveTopic, now_ns: int) -> Any:
    topic = core.ledger.registry.topics.get(message.name)
    if topic is None:
        return [0, False]
    link.stale_told.discard(topic.number)
    return [topic.number, bool(topic.route.subscribers)]


def _name_topic(core: BusCore, link: LinkState, message: messages.NameTopic, now_ns: int) -> Any:
    topic = core.ledger.registry.topic_by_number.get(message.topic)
    return topic.name if topic else None


def _subscribe(core: BusCore, link: LinkState, message: messages.Subscribe, now_ns: int) -> Any:
    ledger = core.ledger
    if not message.name or message.credit < 0:
        raise ProtocolError(f"it subscribed {message.name!r} with a credit of {message.credit}")
    subscriber = ledger.registry.subscribe(message.name, message.config, message.patterns, message.broadcast)
    ledger.orphans.pop(subscriber, None)
    if subscriber.number not in link.endpoints:
        credit = min(message.credit, core.config.credit_max)
        endpoint = Endpoint(link.number, subscriber, credit, core.config.credit_max)
        link.endpoints[subscriber.number] = endpoint
        subscriber.endpoints.append(endpoint)
    ledger.dirty[subscriber] = None
    return subscriber.number


def _unsubscribe(core: BusCore, link: LinkState, message: messages.Unsubscribe, now_ns: int) -> Any:
    ledger = core.ledger
    subscriber = ledger.registry.subscribers.get((message.name, message.config))
    if subscriber is None:
        return False
    ledger.registry.unsubscribe(subscriber)
    ledger.orphans.pop(subscriber, None)
    ledger.skip_all_waiting(subscriber, "it was unsubscribed", now_ns, core.effects)
    # An endpoint that still holds something stays with its link until it has settled that.
    for endpoint in subscriber.endpoints:
        if not endpoint.holding:
            del ledger.links[endpoint.link].endpoints[subscriber.number]
    subscriber.endpoints.clear()
    core.forget_if_done(subscriber)
    return True


def _stop_hosting(core: BusCore, link: LinkState, message: messages.StopHosting, now_ns: int) -> Any:
    endpoint = link.endpoints.pop(message.subscriber, None)
    if endpoint is None:
        return False
    core.drop_endpoint(link, endpoint, crashed=False, now_ns=now_ns, effects=core.effects)
    core.give_up_orphans(now_ns, core.effects)
    return True


def _list_subscribers(core: BusCore, link: LinkState, message: messages.ListSubscribers, now_ns: int) -> Any:
    registry = core.ledger.registry
    if message.topic is None:
        subscribers = tuple(registry.subscribers.values())
    else:
        topic = registry.topics.get(message.topic)
        subscribers = topic.route.subscribers if topic else ()
    return [
        [item.name, item.config, list(item.patterns), [core.ledger.links[end.link].pid for end in item.endpoints]]
        for item in subscribers
    ]


def _mark_event(core: BusCore, link: LinkState, message: messages.MarkEvent, now_ns: int) -> Any:
    ledger = core.ledger
    subscriber = ledger.registry.subscribers.get((message.name, message.config))
    if message.outcome not in (Outcome.COMPLETED, Outcome.SKIPPED):
        raise ProtocolError(f"it marked an event with outcome {message.outcome}")
    if subscriber is None:
        raise NotSubscribed(f"{message.name} is not subscribed to anything; subscribe it before it marks events")
    found = _find(core, message.topic, message.sequence)
    ours = next(((run, bit) for run, bit in found if subscriber.number in run.route.row_of), None)
    if ours is None:
        _check_wants(core, subscriber, message.topic)
        if found:
            run, bit = found[0]
            topic = run.topic_of(bit.bit_length() - 1).name
            raise NotSubscribed(f"{message.name} was not subscribed to {topic!r} when the event was notified")
        return None  # Settled already: a late mark changes nothing.
    run, bit = ours
    if run.unsettled[run.route.row_of[subscriber.number]] & bit:
        _mark(core, link, run, bit, subscriber, message.outcome)
        ledger.story.tell(now_ns, f"marked for {subscriber.name} by process {link.pid}", run.first, bit)
    return None


def _check_wants(core: BusCore, subscriber: SubscriberState, topic_number: int) -> None:
    topic = core.ledger.registry.topic_by_number.get(topic_number)
    dead_letter_topic = core.config.dead_letter_topic
    if topic is None or subscriber.wants(topic.name) or (dead_letter_topic and subscriber.wants(dead_letter_topic)):
        return
    raise NotSubscribed(f"{subscriber.name} is not subscribed to {topic.name!r}: its patterns {subscriber.patterns}")


def _mark(core: BusCore, link: LinkState, run: Run, bit: int, subscriber: SubscriberState, outcome: int) -> None:
    holder = core.ledger.holder(run, bit, subscriber)
    if holder is None:
        core.ledger.settle_waiting(run, bit, subscriber, outcome, core.effects)
        return
    if holder.link == link.number:
        holder.let_go(run, bit)
    else:
        # The holder may be reading: the event stays in its hands and pins the span until it settles, too.
        run.pins += 1
    core.ledger.settle_held(run, bit, subscriber, outcome, core.effects)
    core.after_release(core.ledger.links[holder.link], subscriber)


def _explain_skip(core: BusCore, link: LinkState, message: messages.ExplainSkip, now_ns: int) -> Any:
    subscriber = core.ledger.registry.subscriber_by_number.get(message.subscriber)
    if subscriber is not None:
        reason = message.reason[:REASON_LENGTH_MAX]
        skip = (message.event_id[:REASON_LENGTH_MAX], reason)
        if skip not in subscriber.recent_skips:  # A process that crashes after telling why: the next one tells it, too.
            subscriber.recent_skips.append(skip)
    return None


def _find(core: BusCore, topic_number: int, sequence: int) -> list[tuple[Run, int]]:
    """(run, bit) of the event and of its dead letter, as far as they are unsettled and their topics are known."""
    found = []
    for run, bit in core.ledger.runs.find(sequence):
        topic = run.topic_of(bit.bit_length() - 1)
        if not topic.is_gone and (run.is_letter or topic.number == topic_number):
            found.append((run, bit))
    return found


def _watch_event(core: BusCore, link: LinkState, message: messages.WatchEvent, now_ns: int) -> Any:
    found = _find(core, message.topic, message.sequence)
    return describe(*found[0]) if found else None


def _list_events(core: BusCore, link: LinkState, message: messages.ListEvents, now_ns: int) -> Any:
    topic = core.ledger.registry.topics.get(message.topic)
    if topic is None or not topic.unsettled:
        return [] if message.watchers else b""
    found = [(run, mask) for run in core.ledger.runs if (mask := run.of_topic(topic) & run.any_unsettled())]
    if message.watchers:
        return [[run.cut(1 << index), describe(run, 1 << index)] for run, mask in found for index in bits(mask)]
    return b"".join([run.cut(mask) for run, mask in found])


def _lease_event(core: BusCore, link: LinkState, message: messages.LeaseEvent, now_ns: int) -> Any:
    found = _find(core, message.topic, message.sequence)
    if not found:
        return False
    run, bit = found[0]
    end = message.offset + message.length
    if not run.span.start <= message.offset < end <= run.span.end:
        raise ProtocolError(f"it leased event {message.sequence:#x} at {message.offset}, where that is not")
    topic = run.topic_of(bit.bit_length() - 1).name
    core.lease(link, message.sequence, run.span, topic, message.offset, message.length, now_ns)
    return True


def _get_statistics(core: BusCore, link: LinkState, message: messages.GetStatistics, now_ns: int) -> Any:
    ledger = core.ledger
    holders: dict[int, int] = {}
    for span in ledger.spans.in_use():
        writer = ledger.links.get(span.writer)
        pid = writer.pid if writer else 0
        holders[pid] = holders.get(pid, 0) + span.length
    return {
        "topics": len(ledger.registry.topics),
        "subscribers": [_subscriber_statistics(item) for item in ledger.registry.subscribers.values()],
        "links": len(ledger.links),
        "events_notified": ledger.events_notified,
        "events_dropped": ledger.events_dropped,
        "events_unsettled": sum(topic.unsettled for topic in ledger.registry.topics.values()),
        "memory_bytes_max": ledger.spans.memory_bytes_max,
        "memory_bytes_used": ledger.spans.used_bytes,
        "memory_bytes_leased": sum(span.length for span in ledger.spans.in_use() if span.leases),
        "segments": ledger.spans.segment_count,
        "span_holders": list(holders.items()),
        "lease_holders": [[link.pid, _leased_bytes(link)] for link in ledger.links.values() if link.leases],
    }


def _leased_bytes(link: LinkState) -> int:
    return sum(lease.length for lease in link.leases.values())


def _subscriber_statistics(subscriber: SubscriberState) -> list[Any]:
    return [
        subscriber.name,
        subscriber.config,
        subscriber.queued + len(subscriber.suspects),
        sum(endpoint.holding for endpoint in subscriber.endpoints),
        subscriber.completed,
        subscriber.skipped,
        subscriber.redelivered,
        [list(skip) for skip in subscriber.recent_skips],
    ]


def _drain(core: BusCore, link: LinkState, message: messages.Drain, now_ns: int) -> Any:
    check_waits(sum(waiter.link == link.number for waiter in core.ledger.drains), "drains")
    core.ledger.drains.append(DrainWaiter(link.number, message.request, compile_pattern(message.pattern)))
    core.ledger.topic_emptied = True  # Answer at once when there is nothing to wait for.
    return UNANSWERED


def _cancel_wait(core: BusCore, link: LinkState, message: messages.CancelWait, now_ns: int) -> Any:
    ledger = core.ledger
    key = (link.number, message.waiting)
    ledger.drains = [waiter for waiter in ledger.drains if (waiter.link, waiter.request) != key]
    if ledger.awaited.get(message.waiting) == link.number:
        del ledger.awaited[message.waiting]
    return UNANSWERED


def _tell_story(core: BusCore, link: LinkState, message: messages.TellStory, now_ns: int) -> Any:
    return core.story(message.sequence)


def _compare(core: BusCore, link: LinkState, message: messages.Compare, now_ns: int) -> Any:
    """Send again what did not arrive, and take back spans that the process does not know it has."""
    unsure = link.unsure
    if unsure is None or unsure.manager != message.manager:
        return UNANSWERED  # An answer to a manager that is dead by now.
    link.unsure = None
    for hosted in link.endpoints.values():
        hosted.is_unsure = False
        core.ledger.dirty[hosted.subscriber] = None  # What came meanwhile goes after what is sent again here.
    arrived = _arrived(core, message)
    for number, runs in unsure.held.items():
        endpoint = link.endpoints.get(number)
        for run, mask in runs.items() if endpoint is not None else ():
            missing = mask & endpoint.held.get(run, 0) & ~arrived.get((number, run), 0)  # type: ignore[union-attr]
            if missing:
                attempts = endpoint.subscriber.attempts  # type: ignore[union-attr]
                attempt = attempts.get(run.first + missing.bit_length() - 1, 0) + 1
                core.effects.append(Deliver(link.number, number, attempt, run.cut(missing)))
                core.ledger.story.tell(now_ns, f"sent again on link {link.number}", run.first, missing)
    for place, span in unsure.spans.items():
        # The same span, and not another at its place, which it was granted since and may not have heard of.
        if link.spans.get(place) is span and [span.segment, span.start] not in message.spans:
            del link.spans[place]
            span.sealed = True
            core.ledger.recycle_if_free(span, core.effects)
    return UNANSWERED


def _arrived(core: BusCore, message: messages.Compare) -> dict[tuple[int, Run], int]:
    """(subscriber, run) -> what the process says it has."""
    arrived: dict[tuple[int, Run], int] = {}
    for held in message.held:
        number, flat = _checked_held(held)
        for first, count in zip(flat[::2], flat[1::2], strict=True):
            last = first + count - 1
            for block in range(first >> BLOCK_SHIFT, (last >> BLOCK_SHIFT) + 1):
                for run in core.ledger.runs.in_block(block):
                    arrived[number, run] = arrived.get((number, run), 0) | run.between(first, last)
    return arrived


def _checked_held(held: Any) -> tuple[int, list[int]]:
    if isinstance(held, list) and len(held) == 2 and isinstance(held[0], int) and isinstance(held[1], list):
        flat = held[1]
        is_numbers = not len(flat) % 2 and all(type(part) is int and part >= 0 for part in flat)
        if is_numbers and sum(flat[1::2]) <= COMPARED_MAX:
            return held[0], flat
    raise ProtocolError(f"it told that it holds {held!r:.80}")


def _shut_down(core: BusCore, link: LinkState, message: messages.ShutDown, now_ns: int) -> Any:
    core.stopping = True
    core.effects += [Warn(f"process {link.pid} shuts the bus down"), Reply(link.number, message.request, None), Stop()]
    return UNANSWERED


def _goodbye(core: BusCore, link: LinkState, message: messages.Goodbye, now_ns: int) -> Any:
    link.leaving = True
    return UNANSWERED


UNANSWERED: Any = object()
"""What a handler returns when the answer comes later, or never."""

REQUEST_HANDLERS: dict[type[Request], Callable[[BusCore, LinkState, Any, int], Any]] = {
    messages.RegisterTopic: _register_topic,
    messages.UnregisterTopic: _unregister_topic,
    messages.ListTopics: _list_topics,
    messages.ResolveTopic: _resolve_topic,
    messages.NameTopic: _name_topic,
    messages.Subscribe: _subscribe,
    messages.Unsubscribe: _unsubscribe,
    messages.StopHosting: _stop_hosting,
    messages.ListSubscribers: _list_subscribers,
    messages.MarkEvent: _mark_event,
    messages.ExplainSkip: _explain_skip,
    messages.WatchEvent: _watch_event,
    messages.ListEvents: _list_events,
    messages.LeaseEvent: _lease_event,
    messages.GetStatistics: _get_statistics,
    messages.Drain: _drain,
    messages.CancelWait: _cancel_wait,
    messages.TellStory: _tell_story,
    messages.ShutDown: _shut_down,
    messages.Goodbye: _goodbye,
    messages.Compare: _compare,
}
