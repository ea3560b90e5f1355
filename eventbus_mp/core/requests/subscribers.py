"""Requests about subscribers: subscribe, unsubscribe, and who hosts what."""

from __future__ import annotations

from eventbus_mp.core.entities import Endpoint
from eventbus_mp.core.hosting import drop_endpoint, forget_if_done, give_up_orphans
from eventbus_mp.core.links import LinkState
from eventbus_mp.core.skips import skip_all_waiting
from eventbus_mp.core.state import Step
from eventbus_mp.errors import ProtocolError
from eventbus_mp.protocol import requests

__all__ = ["stop_hosting", "subscribe", "unsubscribe"]


def subscribe(step: Step, link: LinkState, message: requests.Subscribe) -> int:
    state = step.state
    if not message.name or message.credit < 0:
        raise ProtocolError(f"it subscribed {message.name!r} with a credit of {message.credit}")
    subscriber = state.registry.subscribe(message.name, message.config, message.patterns, message.broadcast)
    state.orphans.pop(subscriber, None)
    if subscriber.number not in link.endpoints:
        credit_max = state.config.credit_max
        endpoint = Endpoint(link.number, subscriber, min(message.credit, credit_max), credit_max)
        link.endpoints[subscriber.number] = endpoint
        subscriber.endpoints.append(endpoint)
    state.dirty[subscriber] = None
    return subscriber.number


def unsubscribe(step: Step, link: LinkState, message: requests.Unsubscribe) -> bool:
    state = step.state
    subscriber = state.registry.subscribers.get((message.name, message.config))
    if subscriber is None:
        return False
    state.registry.unsubscribe(subscriber)
    state.orphans.pop(subscriber, None)
    skip_all_waiting(step, subscriber, "it was unsubscribed")
    # An endpoint that still holds something stays with its link until it has settled that.
    for endpoint in subscriber.endpoints:
        if not endpoint.in_flight_count:
            del state.links[endpoint.link].endpoints[subscriber.number]
    subscriber.endpoints.clear()
    forget_if_done(state, subscriber)
    return True


def stop_hosting(step: Step, link: LinkState, message: requests.StopHosting) -> bool:
    endpoint = link.endpoints.pop(message.subscriber, None)
    if endpoint is None:
        return False
    drop_endpoint(step, endpoint, crashed=False)
    give_up_orphans(step)
    return True
