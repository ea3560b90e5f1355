"""Processes and what they host: links that open and end, endpoints that go, subscribers that nobody hosts."""

from __future__ import annotations

from collections.abc import Collection

from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.event_batch import EventBatch
from eventbus_mp.core.leases import drop_lease
from eventbus_mp.core.leaving import begin_idling
from eventbus_mp.core.lifecycle import announce, concerns_itself
from eventbus_mp.core.links import Blame, LinkState
from eventbus_mp.core.receipts import release_boxes
from eventbus_mp.core.redelivery import reclaim
from eventbus_mp.core.requirements import tell_unmet
from eventbus_mp.core.skips import skip_all_waiting
from eventbus_mp.core.span_requests import drop_span_requests, recycle_if_free
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol.history_kinds import HistoryKind
from eventbus_mp.protocol.messages import LinkLost, LinkOpened, ManagerReplaced

__all__ = [
    "after_release",
    "drop_endpoint",
    "forget_if_done",
    "give_up_orphans",
    "holder_of",
    "on_link_lost",
    "on_link_opened",
    "on_manager_replaced",
]


def on_link_opened(step: Step, message: LinkOpened) -> None:
    """A process connected."""
    state = step.state
    link = state.links[message.link] = LinkState(message.link, message.pid, step.now_ns)
    link.idle_deadline_ns, state.idle_deadline_ns = state.idle_deadline_ns, None
    if state.config.lifecycle_topic is not None:
        state.unannounced.add(message.link)


def on_link_lost(step: Step, message: LinkLost) -> None:
    """A process left or died: everything that it had comes back."""
    state = step.state
    link = state.link(message.link)
    del state.links[message.link]
    crashed = message.crashed and not link.leaving
    # First what it waits for: nobody is there to be answered.
    for waiting in [sequence for sequence, owner in state.awaited.items() if owner == link.number]:
        del state.awaited[waiting]
    state.drains = [waiter for waiter in state.drains if waiter.link != link.number]
    release_boxes(state, link)
    state.room_waiters = [waiter for waiter in state.room_waiters if waiter.link != link.number]
    for endpoint in link.endpoints.values():
        drop_endpoint(step, endpoint, crashed=crashed, blames=link.blames)
    for lease in link.leases.values():
        drop_lease(step, lease)
    for span in link.spans.values():
        span.sealed = True
        recycle_if_free(step, span)
    drop_span_requests(step, link.number)
    state.changes.leave(link.number)
    if link.number in state.unannounced:
        state.unannounced.remove(link.number)
    elif not link.observes:
        announce(step, "process_gone", pid=link.pid, role=link.role, crashed=crashed)
    give_up_orphans(step)
    if not link.observes:
        begin_idling(step)


def on_manager_replaced(step: Step, message: ManagerReplaced) -> None:
    """What the manager before had sent may not have arrived: until each process has reported, it gets nothing new."""
    for link in step.state.links.values():
        link.begin_resync(message.pid)
    step.state.takeovers += 1
    step.state.is_takeover_unannounced = step.state.config.lifecycle_topic is not None
    step.state.event_log.append((step.now_ns, HistoryKind.MANAGER_REPLACED, 0, 0, (), message.pid, None, None))


def holder_of(state: BusState, batch: EventBatch, bit: int, subscriber: SubscriberState) -> Endpoint | None:
    """The endpoint that holds this delivery, if there is one."""
    for link in state.links.values():
        endpoint = link.endpoints.get(subscriber.number)
        if endpoint is not None and endpoint.in_flight.get(batch, 0) & bit:
            return endpoint
    return None


def after_release(state: BusState, link: LinkState, subscriber: SubscriberState) -> None:
    """An endpoint holds less than before: it may have free credit now, or, of an unsubscribed one, be done."""
    if state.registry.is_subscribed(subscriber):
        state.dirty[subscriber] = None
    elif not link.endpoints[subscriber.number].in_flight:
        del link.endpoints[subscriber.number]
        forget_if_done(state, subscriber)


def forget_if_done(state: BusState, subscriber: SubscriberState) -> None:
    """Forget an unsubscribed subscriber once no process holds anything of it."""
    if not any(subscriber.number in link.endpoints for link in state.links.values()):
        state.registry.forget(subscriber)


def drop_endpoint(step: Step, endpoint: Endpoint, *, crashed: bool, blames: Collection[Blame] = ()) -> None:
    """A process no longer hosts the subscriber: what it held comes back. If it was the last one, the grace begins."""
    state, subscriber = step.state, endpoint.subscriber
    if endpoint in subscriber.endpoints:
        subscriber.endpoints.remove(endpoint)
        subscriber.note_endpoints()
    # One that forwards ran no handler on what it held.
    reclaim(step, endpoint, crashed=crashed and not endpoint.forwards, blames=blames)
    if not state.registry.is_subscribed(subscriber):
        skip_all_waiting(step, subscriber, "it was unsubscribed")
        forget_if_done(state, subscriber)
        return
    state.changes.note_subscriber(subscriber)
    if not subscriber.endpoints:
        orphan_grace_s = 0 if subscriber.broadcast else state.config.orphan_grace_s
        # Even one that is due at once is given up by `give_up_orphans`, when everything else has come back.
        state.orphans[subscriber] = step.now_ns + int(orphan_grace_s * 1e9)
        state.recall_checks.pop(subscriber, None)


def give_up_orphans(step: Step) -> None:
    """Skip what waits for subscribers that nobody has hosted for too long."""
    state = step.state
    due = [item for item, due_ns in state.orphans.items() if due_ns <= step.now_ns]
    for subscriber in due:
        del state.orphans[subscriber]
        is_quiet = concerns_itself(step, subscriber)
        state.changes.note_unsubscribed(subscriber)
        state.registry.unsubscribe(subscriber)
        reason = (
            "its process left"
            if subscriber.broadcast
            else f"no process hosted it for {state.config.orphan_grace_s:g} s"
        )
        if not is_quiet:
            announce(step, "unsubscribed", subscriber=subscriber.shown, reason=reason, pid=None)
        skip_all_waiting(step, subscriber, reason)
        forget_if_done(state, subscriber)
    if due:
        tell_unmet(step)
