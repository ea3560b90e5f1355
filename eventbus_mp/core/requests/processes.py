"""Requests about the process itself: what it waits for, that it leaves, that the bus is to end."""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.links import LinkState
from eventbus_mp.core.state import DrainWaiter, Step, check_waits
from eventbus_mp.patterns import compile_pattern
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import Reply, Stop, Warn

__all__ = ["ANSWERED_LATER", "cancel_wait", "drain", "goodbye", "shut_down"]

ANSWERED_LATER: Any = object()
"""What a handler returns if the answer depends on something yet to happen; what causes it appends the `Reply`."""


def drain(step: Step, link: LinkState, message: requests.Drain) -> Any:
    state = step.state
    check_waits(sum(waiter.link == link.number for waiter in state.drains), "drains")
    state.drains.append(DrainWaiter(link.number, message.request, compile_pattern(message.pattern)))
    state.topic_emptied = True  # It is answered at the end of this message if there is nothing to wait for.
    return ANSWERED_LATER


def cancel_wait(step: Step, link: LinkState, message: requests.CancelWait) -> None:
    state = step.state
    key = (link.number, message.waiting)
    state.drains = [waiter for waiter in state.drains if (waiter.link, waiter.request) != key]
    if state.awaited.get(message.waiting) == link.number:
        del state.awaited[message.waiting]


def shut_down(step: Step, link: LinkState, message: requests.ShutDown) -> Any:
    # The reply comes before `Stop`, after which nothing is sent any more.
    step.state.is_stopping = True
    step.effects += [
        Warn(f"process {link.pid} shuts the bus down"),
        Reply(link.number, message.request, None),
        Stop(),
    ]
    return ANSWERED_LATER


def goodbye(step: Step, link: LinkState, message: requests.Goodbye) -> None:
    link.leaving = True
