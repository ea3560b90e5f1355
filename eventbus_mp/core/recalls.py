"""Calling back: a process that has more than it comes to, while another one of the same subscriber has nothing.

What is sent and not taken waits in a process. Credit keeps that short if deliveries take as long as they did; but a
process may slow down or hang, may have asked for many at once, or may have been the only one when it got them. So
subscribers that several processes share are looked at now and then, as long as one of them has something waiting. What
a process has taken stays with it.
"""

from __future__ import annotations

from eventbus_mp.core.entities import Endpoint, SubscriberState
from eventbus_mp.core.state import Step
from eventbus_mp.protocol.client_events import Recalled
from eventbus_mp.protocol.effects import Tell

__all__ = ["note_sharing", "recall"]

RECALL_NS = 20_000_000
"""How often one looks, and how long a process must have reported nothing; or twice as much work must be waiting there.
Below that, a message to and fro costs more than it gains."""


def note_sharing(step: Step, subscriber: SubscriberState) -> None:
    """One of several processes has more than one delivery, or there is a new one: look at them later."""
    checks = step.state.recall_checks
    if subscriber not in checks:
        checks[subscriber] = step.now_ns + RECALL_NS


def recall(step: Step) -> None:
    """Look at the subscribers whose time has come."""
    checks = step.state.recall_checks
    for subscriber in [item for item, due in checks.items() if due <= step.now_ns]:
        del checks[subscriber]
        if len(subscriber.endpoints) > 1 and _recall(step, subscriber):
            checks[subscriber] = step.now_ns + RECALL_NS


def _recall(step: Step, subscriber: SubscriberState) -> bool:
    """Call back from those that have too much; whether there is a reason to look again."""
    endpoints = subscriber.endpoints
    for endpoint in endpoints:
        if endpoint.is_recalled and not endpoint.untaken:
            # It has handed back everything, and others had their turn. It may be waiting, and would never say so.
            endpoint.hear()
            step.state.dirty[subscriber] = None
    full = [endpoint for endpoint in endpoints if endpoint.untaken > endpoint.threads]
    idle = sum(not item.untaken and item.free > 0 and not item.forwards for item in endpoints)
    if idle and not subscriber.queued and not subscriber.quarantine:
        for endpoint in full:
            if not endpoint.owes_return and not endpoint.is_resyncing and _is_behind(endpoint, step.now_ns):
                endpoint.is_recalled = endpoint.owes_return = True
                endpoint.demand = 0
                # One of them each of its threads may be working on.
                keep = (endpoint.untaken - endpoint.threads) // (1 + idle)
                step.effects.append(Tell(endpoint.link, Recalled(subscriber.number, keep)))
    return bool(full) or any(endpoint.is_recalled for endpoint in endpoints)


def _is_behind(endpoint: Endpoint, now_ns: int) -> bool:
    work_ns = endpoint.untaken * endpoint.cost_ns // endpoint.threads
    return now_ns - endpoint.since_ns >= RECALL_NS or work_ns >= 2 * RECALL_NS
