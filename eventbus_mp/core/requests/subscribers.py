"""Requests about subscribers: subscribe, unsubscribe, and who hosts what."""

from __future__ import annotations

from eventbus_mp.core.backlog import WHEN_FULL
from eventbus_mp.core.bounds import set_bound
from eventbus_mp.core.dispatcher import dispatch
from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.hosting import drop_endpoint, forget_if_done, give_up_orphans
from eventbus_mp.core.lifecycle import announce, concerns_itself
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.recalls import note_sharing
from eventbus_mp.core.requests.handling import handles
from eventbus_mp.core.requirements import tell_unmet
from eventbus_mp.core.skips import skip_all_waiting
from eventbus_mp.core.state import Step
from eventbus_mp.errors import ProtocolError, UsageError
from eventbus_mp.protocol import requests


@handles(requests.Subscribe)
def subscribe(step: Step, link: LinkState, message: requests.Subscribe) -> int:
    state = step.state
    if not message.name or message.credit < 0 or message.threads < 1:
        raise ProtocolError(
            f"it subscribed {message.name!r} with a credit of {message.credit} and {message.threads} threads"
        )
    if message.scope not in requests.SCOPES or (message.host and not message.forwards):
        raise ProtocolError(
            f"it subscribed {message.name!r} of host {message.host!r:.80} with the scope {message.scope!r:.20}"
        )
    bound = message.backlog_max, message.backlog_bytes_max, message.when_full
    if min(bound[:2]) < 0 or message.when_full not in WHEN_FULL:
        raise ProtocolError(f"it subscribed {message.name!r} with a bound of {bound}")
    known = state.registry.subscribers.get((message.name, message.config, message.host))
    ours = link.endpoints.get(known.number) if known is not None else None
    if ours is not None and ours.forwards != message.forwards:
        raise UsageError(
            f"process {link.pid} has {message.name!r} already, {'to forward' if ours.forwards else 'to handle'} its "
            "events; it does one or the other: unsubscribe or close that first"
        )
    subscriber = state.registry.subscribe(
        message.name, message.config, message.patterns, message.broadcast, message.scope, message.host
    )
    set_bound(state, subscriber, bound)
    state.orphans.pop(subscriber, None)
    if subscriber.number not in link.endpoints:
        credit_max = state.config.credit_max
        # All that another host is to get goes to the process that forwards it: nobody here shares it.
        credit = min(message.credit or (credit_max if message.host else 0), credit_max)
        endpoint = Endpoint(link.number, subscriber, credit, credit_max, link.pid, forwards=message.forwards)
        link.endpoints[subscriber.number] = endpoint
        subscriber.endpoints.append(endpoint)
        subscriber.note_endpoints()
        if len(subscriber.endpoints) > 1:
            note_sharing(step, subscriber)
    link.endpoints[subscriber.number].work_with(message.threads)
    state.changes.note_subscriber(subscriber)
    state.dirty[subscriber] = None
    tell_unmet(step)  # Its patterns may have been other ones.
    if not concerns_itself(step, subscriber):
        facts = {"patterns": list(subscriber.patterns), "broadcast": subscriber.broadcast, "pid": link.pid}
        announce(step, "subscribed", subscriber=subscriber.shown, **facts)
    return subscriber.number


@handles(requests.Unsubscribe)
def unsubscribe(step: Step, link: LinkState, message: requests.Unsubscribe) -> bool:
    state = step.state
    subscriber = state.registry.subscribers.get((message.name, message.config, message.host))
    if subscriber is None:
        return False
    _end(step, subscriber, "it was unsubscribed", link)
    return True


def _end(step: Step, subscriber: SubscriberState, reason: str, link: LinkState) -> None:
    """The subscriber gets nothing any more, and what waits for it is skipped."""
    state = step.state
    is_quiet = concerns_itself(step, subscriber)
    state.changes.note_unsubscribed(subscriber)
    state.registry.unsubscribe(subscriber)
    state.orphans.pop(subscriber, None)
    if not is_quiet:
        announce(step, "unsubscribed", subscriber=subscriber.shown, reason=reason, pid=link.pid)
    skip_all_waiting(step, subscriber, reason)
    # An endpoint that still holds something stays with its link until it has settled that.
    for endpoint in subscriber.endpoints:
        if not endpoint.in_flight_count:
            del state.links[endpoint.link].endpoints[subscriber.number]
    subscriber.endpoints.clear()
    subscriber.note_endpoints()
    forget_if_done(state, subscriber)
    tell_unmet(step)


@handles(requests.Demand)
def demand(step: Step, link: LinkState, message: requests.Demand) -> None:
    endpoint = link.endpoints.get(message.subscriber)
    if endpoint is None or not step.state.registry.is_subscribed(endpoint.subscriber):
        return
    endpoint.hear()
    endpoint.demand = max(0, message.count - endpoint.untaken)
    # At once, and not at the end of the message: the answer goes behind all that can be sent.
    dispatch(step, endpoint.subscriber)


@handles(requests.StopHosting)
def stop_hosting(step: Step, link: LinkState, message: requests.StopHosting) -> bool:
    endpoint = link.endpoints.pop(message.subscriber, None)
    if endpoint is None:
        return False
    drop_endpoint(step, endpoint, crashed=False)
    subscriber = endpoint.subscriber
    if message.ends and not subscriber.endpoints and step.state.registry.is_subscribed(subscriber):
        _end(step, subscriber, "its last inbox was closed", link)
    give_up_orphans(step)
    return True


@handles(requests.RecallObeyed)
def recall_obeyed(step: Step, link: LinkState, message: requests.RecallObeyed) -> None:
    endpoint = link.endpoints.get(message.subscriber)
    if endpoint is not None and endpoint.owes_all:
        endpoint.owes_all = False
        step.state.dirty[endpoint.subscriber] = None
