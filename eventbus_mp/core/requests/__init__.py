"""What the core answers to requests. The table is the list of everything that a client can ask.

A handler gets the step, the link that asks, and the request. It changes the state, and its return value is the answer.
A `UsageError` that it raises becomes the answer instead, and a `ProtocolError` closes the link. If the answer depends
on something that is yet to happen, it returns `ANSWERED_LATER`, and whatever causes the answer appends the `Reply`.
The handler of a `Notice` returns None, which is not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventbus_mp.core.links import LinkState
from eventbus_mp.core.requests.events import explain_skip, lease_event, mark_event
from eventbus_mp.core.requests.processes import ANSWERED_LATER, cancel_wait, drain, goodbye, shut_down
from eventbus_mp.core.requests.queries import get_history, get_statistics, list_events, list_subscribers, watch_event
from eventbus_mp.core.requests.subscribers import stop_hosting, subscribe, unsubscribe
from eventbus_mp.core.requests.takeover import report_state
from eventbus_mp.core.requests.topics import (
    list_topics,
    name_topic,
    register_topic,
    register_topics,
    resolve_topic,
    unregister_topic,
)
from eventbus_mp.core.state import Step
from eventbus_mp.protocol import requests

__all__ = ["ANSWERED_LATER", "REQUEST_HANDLERS"]

REQUEST_HANDLERS: dict[type[requests.Request], Callable[[Step, LinkState, Any], Any]] = {
    requests.RegisterTopic: register_topic,
    requests.RegisterTopics: register_topics,
    requests.UnregisterTopic: unregister_topic,
    requests.ListTopics: list_topics,
    requests.ResolveTopic: resolve_topic,
    requests.NameTopic: name_topic,
    requests.Subscribe: subscribe,
    requests.Unsubscribe: unsubscribe,
    requests.StopHosting: stop_hosting,
    requests.ListSubscribers: list_subscribers,
    requests.MarkEvent: mark_event,
    requests.ExplainSkip: explain_skip,
    requests.WatchEvent: watch_event,
    requests.ListEvents: list_events,
    requests.LeaseEvent: lease_event,
    requests.GetStatistics: get_statistics,
    requests.Drain: drain,
    requests.CancelWait: cancel_wait,
    requests.GetHistory: get_history,
    requests.ReportState: report_state,
    requests.ShutDown: shut_down,
    requests.Goodbye: goodbye,
}
