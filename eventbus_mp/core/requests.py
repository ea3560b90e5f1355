"""What the core answers to requests: topics, subscriptions, marks, questions.

Each handler gets (core, link, request, now_ns), changes the ledger, and returns the answer, or `UNANSWERED`; further
effects go to `core.effects`. A `UsageError` it raises becomes the answer. The table at the bottom is the list of
everything that a client can ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eventbus_mp.core.batches import SEQUENCE_BUCKET_SHIFT, EventBatch, bits
from eventbus_mp.core.dispatcher import Endpoint
from eventbus_mp.core.links import LinkState, check_waits
from eventbus_mp.core.registry import SubscriberState
from eventbus_mp.core.state import DrainWaiter
from eventbus_mp.core.transitions import describe
from eventbus_mp.errors import NotSubscribed, ProtocolError
from eventbus_mp.patterns import compile_pattern
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import Deliver, Reply, Stop, Warn
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.protocol.requests import Request

if TYPE_CHECKING:
    from eventbus_mp.core.bus import BusCore

__all__ = ["REQUEST_HANDLERS"]

REASON_LENGTH_MAX = 500
REPORTED_MAX = 1 << 21
"""More deliveries than an endpoint can hold."""


def _register_topic(core: BusCore, link: LinkState, message: requests.RegisterTopic, now_ns: int) -> Any:
    known = message.name in core.state.registry.topics
    core.state.registry.register(message.name)
    return not known


def _unregister_topic(core: BusCore, link: LinkState, message: requests.UnregisterTopic, now_ns: int) -> Any:
    topic = core.state.registry.unregister(message.name)
    if topic is not None:
        core.state.drop_topic(topic, core.effects)
    return topic is not None


def _list_topics(core: BusCore, link: LinkState, message: requests.ListTopics, now_ns: int) -> Any:
    return sorted(core.state.registry.topics)


def _resolve_topic(core: BusCore, link: LinkState, message: requests.ResolveTopic, now_ns: int) -> Any:
    topic = core.state.registry.topics.get(message.name)
    if topic is None:
        return [0, False]
    link.stale_reported.discard(topic.number)
    return [topic.number, bool(topic.route.subscribers)]


def _name_topic(core: BusCore, link: LinkState, message: requests.NameTopic, now_ns: int) -> Any:
    topic = core.state.registry.topic_by_number.get(message.topic)
    return topic.name if topic else None


def _subscribe(core: BusCore, link: LinkState, message: requests.Subscribe, now_ns: int) -> Any:
    state = core.state
    if not message.name or message.credit < 0:
        raise ProtocolError(f"it subscribed {message.name!r} with a credit of {message.credit}")
    subscriber = state.registry.subscribe(message.name, message.config, message.patterns, message.broadcast)
    state.orphans.pop(subscriber, None)
    if subscriber.number not in link.endpoints:
        credit = min(message.credit, core.config.credit_max)
        endpoint = Endpoint(link.number, subscriber, credit, core.config.credit_max)
        link.endpoints[subscriber.number] = endpoint
        subscriber.endpoints.append(endpoint)
    state.dirty[subscriber] = None
    return subscriber.number


def _unsubscribe(core: BusCore, link: LinkState, message: requests.Unsubscribe, now_ns: int) -> Any:
    state = core.state
    subscriber = state.registry.subscribers.get((message.name, message.config))
    if subscriber is None:
        return False
    state.registry.unsubscribe(subscriber)
    state.orphans.pop(subscriber, None)
    state.skip_all_waiting(subscriber, "it was unsubscribed", now_ns, core.effects)
    # An endpoint that still holds something stays with its link until it has settled that.
    for endpoint in subscriber.endpoints:
        if not endpoint.in_flight_count:
            del state.links[endpoint.link].endpoints[subscriber.number]
    subscriber.endpoints.clear()
    core.forget_if_done(subscriber)
    return True


def _stop_hosting(core: BusCore, link: LinkState, message: requests.StopHosting, now_ns: int) -> Any:
    endpoint = link.endpoints.pop(message.subscriber, None)
    if endpoint is None:
        return False
    core.drop_endpoint(link, endpoint, crashed=False, now_ns=now_ns, effects=core.effects)
    core.give_up_orphans(now_ns, core.effects)
    return True


def _list_subscribers(core: BusCore, link: LinkState, message: requests.ListSubscribers, now_ns: int) -> Any:
    registry = core.state.registry
    if message.topic is None:
        subscribers = tuple(registry.subscribers.values())
    else:
        topic = registry.topics.get(message.topic)
        subscribers = topic.route.subscribers if topic else ()
    return [
        [item.name, item.config, list(item.patterns), [core.state.links[end.link].pid for end in item.endpoints]]
        for item in subscribers
    ]


def _mark_event(core: BusCore, link: LinkState, message: requests.MarkEvent, now_ns: int) -> Any:
    state = core.state
    subscriber = state.registry.subscribers.get((message.name, message.config))
    if message.outcome not in (Outcome.COMPLETED, Outcome.SKIPPED):
        raise ProtocolError(f"it marked an event with outcome {message.outcome}")
    if subscriber is None:
        raise NotSubscribed(f"{message.name} is not subscribed to anything; subscribe it before it marks events")
    found = _find(core, message.topic, message.sequence)
    ours = next(((batch, bit) for batch, bit in found if subscriber.number in batch.route.row_of), None)
    if ours is None:
        _check_wants(core, subscriber, message.topic)
        if found:
            batch, bit = found[0]
            topic = batch.topic_of(bit.bit_length() - 1).name
            raise NotSubscribed(f"{message.name} was not subscribed to {topic!r} when the event was notified")
        return None  # Settled already: a late mark changes nothing.
    batch, bit = ours
    if batch.unsettled[batch.route.row_of[subscriber.number]] & bit:
        _mark(core, link, batch, bit, subscriber, message.outcome)
        state.event_log.record(now_ns, f"marked for {subscriber.name} by process {link.pid}", batch.first, bit)
    return None


def _check_wants(core: BusCore, subscriber: SubscriberState, topic_number: int) -> None:
    topic = core.state.registry.topic_by_number.get(topic_number)
    dead_letter_topic = core.config.dead_letter_topic
    if topic is None or subscriber.wants(topic.name) or (dead_letter_topic and subscriber.wants(dead_letter_topic)):
        return
    raise NotSubscribed(f"{subscriber.name} is not subscribed to {topic.name!r}: its patterns {subscriber.patterns}")


def _mark(
    core: BusCore, link: LinkState, batch: EventBatch, bit: int, subscriber: SubscriberState, outcome: int
) -> None:
    holder = core.state.holder(batch, bit, subscriber)
    if holder is None:
        core.state.settle_waiting(batch, bit, subscriber, outcome, core.effects)
        return
    if holder.link == link.number:
        holder.release_in_flight(batch, bit)
    else:
        # The holder may be reading: the event stays in its hands and pins the span until it settles, too.
        batch.pins += 1
    core.state.settle_held(batch, bit, subscriber, outcome, core.effects)
    core.after_release(core.state.links[holder.link], subscriber)


def _explain_skip(core: BusCore, link: LinkState, message: requests.ExplainSkip, now_ns: int) -> Any:
    subscriber = core.state.registry.subscriber_by_number.get(message.subscriber)
    if subscriber is not None:
        reason = message.reason[:REASON_LENGTH_MAX]
        skip = (message.event_id[:REASON_LENGTH_MAX], reason)
        if skip not in subscriber.recent_skips:  # A process that crashes after telling why: the next one tells it, too.
            subscriber.recent_skips.append(skip)
    return None


def _find(core: BusCore, topic_number: int, sequence: int) -> list[tuple[EventBatch, int]]:
    """(run, bit) of the event and of its dead letter, as far as they are unsettled and their topics are known."""
    found = []
    for batch, bit in core.state.batches.find(sequence):
        topic = batch.topic_of(bit.bit_length() - 1)
        if not topic.is_gone and (batch.is_dead_letter or topic.number == topic_number):
            found.append((batch, bit))
    return found


def _watch_event(core: BusCore, link: LinkState, message: requests.WatchEvent, now_ns: int) -> Any:
    found = _find(core, message.topic, message.sequence)
    return describe(*found[0]) if found else None


def _list_events(core: BusCore, link: LinkState, message: requests.ListEvents, now_ns: int) -> Any:
    topic = core.state.registry.topics.get(message.topic)
    if topic is None or not topic.unsettled:
        return [] if message.watchers else b""
    found = [(batch, mask) for batch in core.state.batches if (mask := batch.of_topic(topic) & batch.any_unsettled())]
    if message.watchers:
        return [[batch.cut(1 << index), describe(batch, 1 << index)] for batch, mask in found for index in bits(mask)]
    return b"".join([batch.cut(mask) for batch, mask in found])


def _lease_event(core: BusCore, link: LinkState, message: requests.LeaseEvent, now_ns: int) -> Any:
    found = _find(core, message.topic, message.sequence)
    if not found:
        return False
    batch, bit = found[0]
    end = message.offset + message.length
    if not batch.span.start <= message.offset < end <= batch.span.end:
        raise ProtocolError(f"it leased event {message.sequence:#x} at {message.offset}, where that is not")
    topic = batch.topic_of(bit.bit_length() - 1).name
    core.lease(link, message.sequence, batch.span, topic, message.offset, message.length, now_ns)
    return True


def _get_statistics(core: BusCore, link: LinkState, message: requests.GetStatistics, now_ns: int) -> Any:
    state = core.state
    holders: dict[int, int] = {}
    for span in state.spans.in_use():
        writer = state.links.get(span.writer)
        pid = writer.pid if writer else 0
        holders[pid] = holders.get(pid, 0) + span.length
    return {
        "topics": len(state.registry.topics),
        "subscribers": [_subscriber_statistics(item) for item in state.registry.subscribers.values()],
        "links": len(state.links),
        "events_notified": state.events_notified,
        "events_dropped": state.events_dropped,
        "events_unsettled": sum(topic.unsettled for topic in state.registry.topics.values()),
        "memory_bytes_max": state.spans.memory_bytes_max,
        "memory_bytes_used": state.spans.used_bytes,
        "memory_bytes_leased": sum(span.length for span in state.spans.in_use() if span.leases),
        "segments": state.spans.segment_count,
        "span_holders": list(holders.items()),
        "lease_holders": [[link.pid, _leased_bytes(link)] for link in state.links.values() if link.leases],
    }


def _leased_bytes(link: LinkState) -> int:
    return sum(lease.length for lease in link.leases.values())


def _subscriber_statistics(subscriber: SubscriberState) -> list[Any]:
    return [
        subscriber.name,
        subscriber.config,
        subscriber.queued + len(subscriber.quarantine),
        sum(endpoint.in_flight_count for endpoint in subscriber.endpoints),
        subscriber.completed,
        subscriber.skipped,
        subscriber.redelivered,
        [list(skip) for skip in subscriber.recent_skips],
    ]


def _drain(core: BusCore, link: LinkState, message: requests.Drain, now_ns: int) -> Any:
    check_waits(sum(waiter.link == link.number for waiter in core.state.drains), "drains")
    core.state.drains.append(DrainWaiter(link.number, message.request, compile_pattern(message.pattern)))
    core.state.topic_emptied = True  # Answer at once when there is nothing to wait for.
    return UNANSWERED


def _cancel_wait(core: BusCore, link: LinkState, message: requests.CancelWait, now_ns: int) -> Any:
    state = core.state
    key = (link.number, message.waiting)
    state.drains = [waiter for waiter in state.drains if (waiter.link, waiter.request) != key]
    if state.awaited.get(message.waiting) == link.number:
        del state.awaited[message.waiting]
    return UNANSWERED


def _get_history(core: BusCore, link: LinkState, message: requests.GetHistory, now_ns: int) -> Any:
    return core.event_log(message.sequence)


def _report_state(core: BusCore, link: LinkState, message: requests.ReportState, now_ns: int) -> Any:
    """Send again what did not arrive, and take back spans that the process does not know it has."""
    resync = link.resync
    if resync is None or resync.manager != message.manager:
        return UNANSWERED  # An answer to a manager that is dead by now.
    link.resync = None
    for hosted in link.endpoints.values():
        hosted.is_resyncing = False
        core.state.dirty[hosted.subscriber] = None  # What came meanwhile goes after what is sent again here.
    arrived = _arrived(core, message)
    for number, batches in resync.in_flight.items():
        endpoint = link.endpoints.get(number)
        for batch, mask in batches.items() if endpoint is not None else ():
            in_flight = endpoint.in_flight.get(batch, 0)  # type: ignore[union-attr]
            missing = mask & in_flight & ~arrived.get((number, batch), 0)
            if missing:
                attempts = endpoint.subscriber.attempts  # type: ignore[union-attr]
                attempt = attempts.get(batch.first + missing.bit_length() - 1, 0) + 1
                core.effects.append(Deliver(link.number, number, attempt, batch.cut(missing)))
                core.state.event_log.record(now_ns, f"sent again on link {link.number}", batch.first, missing)
    for place, span in resync.spans.items():
        # The same span, and not another at its place, which it was granted since and may not have heard of.
        if link.spans.get(place) is span and [span.segment, span.start] not in message.spans:
            del link.spans[place]
            span.sealed = True
            core.state.recycle_if_free(span, core.effects)
    return UNANSWERED


def _arrived(core: BusCore, message: requests.ReportState) -> dict[tuple[int, EventBatch], int]:
    """(subscriber, run) -> what the process says it has."""
    arrived: dict[tuple[int, EventBatch], int] = {}
    for in_flight in message.held:
        number, flat = _checked_in_flight(in_flight)
        for first, count in zip(flat[::2], flat[1::2], strict=True):
            last = first + count - 1
            for bucket in range(first >> SEQUENCE_BUCKET_SHIFT, (last >> SEQUENCE_BUCKET_SHIFT) + 1):
                for batch in core.state.batches.in_bucket(bucket):
                    arrived[number, batch] = arrived.get((number, batch), 0) | batch.between(first, last)
    return arrived


def _checked_in_flight(in_flight: Any) -> tuple[int, list[int]]:
    if (
        isinstance(in_flight, list)
        and len(in_flight) == 2
        and isinstance(in_flight[0], int)
        and isinstance(in_flight[1], list)
    ):
        flat = in_flight[1]
        is_numbers = not len(flat) % 2 and all(type(part) is int and part >= 0 for part in flat)
        if is_numbers and sum(flat[1::2]) <= REPORTED_MAX:
            return in_flight[0], flat
    raise ProtocolError(f"it told that it holds {in_flight!r:.80}")


def _shut_down(core: BusCore, link: LinkState, message: requests.ShutDown, now_ns: int) -> Any:
    core.stopping = True
    core.effects += [Warn(f"process {link.pid} shuts the bus down"), Reply(link.number, message.request, None), Stop()]
    return UNANSWERED


def _goodbye(core: BusCore, link: LinkState, message: requests.Goodbye, now_ns: int) -> Any:
    link.leaving = True
    return UNANSWERED


UNANSWERED: Any = object()
"""What a handler returns when the answer comes later, or never."""

REQUEST_HANDLERS: dict[type[Request], Callable[[BusCore, LinkState, Any, int], Any]] = {
    requests.RegisterTopic: _register_topic,
    requests.UnregisterTopic: _unregister_topic,
    requests.ListTopics: _list_topics,
    requests.ResolveTopic: _resolve_topic,
    requests.NameTopic: _name_topic,
    requests.Subscribe: _subscribe,
    requests.Unsubscribe: _unsubscribe,
    requests.StopHosting: _stop_hosting,
    requests.ListSubscribers: _list_subscribers,
    requests.MarkEvent: _mark_event,
    requests.ExplainSkip: _explain_skip,
    requests.WatchEvent: _watch_event,
    requests.ListEvents: _list_events,
    requests.LeaseEvent: _lease_event,
    requests.GetStatistics: _get_statistics,
    requests.Drain: _drain,
    requests.CancelWait: _cancel_wait,
    requests.GetHistory: _get_history,
    requests.ShutDown: _shut_down,
    requests.Goodbye: _goodbye,
    requests.ReportState: _report_state,
}
