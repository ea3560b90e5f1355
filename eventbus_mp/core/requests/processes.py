"""Requests about the process itself: what it waits for, that it leaves, that the bus is to end."""

from __future__ import annotations

from typing import Any

from eventbus_mp.core.leaving import begin_idling
from eventbus_mp.core.links import Blame, LinkState
from eventbus_mp.core.requests.handling import ANSWERED_LATER, handles
from eventbus_mp.core.state import DrainWaiter, Step, check_waits
from eventbus_mp.geometry import REASON_LENGTH_MAX
from eventbus_mp.patterns import compile_pattern
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.effects import Reply, Stop, Warn

BLAMES_MAX = 1024
"""For how many calls a process is killed at most; further ones are not accused."""


@handles(requests.Drain)
def drain(step: Step, link: LinkState, message: requests.Drain) -> Any:
    state = step.state
    check_waits(sum(waiter.link == link.number for waiter in state.drains), "drains")
    state.drains.append(DrainWaiter(link.number, message.request, compile_pattern(message.pattern)))
    state.topic_emptied = True  # It is answered at the end of this message if there is nothing to wait for.
    return ANSWERED_LATER


@handles(requests.CancelWait)
def cancel_wait(step: Step, link: LinkState, message: requests.CancelWait) -> None:
    state = step.state
    key = (link.number, message.waiting)
    state.drains = [waiter for waiter in state.drains if (waiter.link, waiter.request) != key]
    state.room_waiters = [waiter for waiter in state.room_waiters if (waiter.link, waiter.request) != key]
    if state.awaited.get(message.waiting) == link.number:
        del state.awaited[message.waiting]


@handles(requests.ShutDown)
def shut_down(step: Step, link: LinkState, message: requests.ShutDown) -> Any:
    # The reply comes before `Stop`, after which nothing is sent any more.
    step.state.is_stopping = True
    unsettled = sum(topic.unsettled for topic in step.state.registry.topics.values())
    step.effects += [
        Warn(f"process {link.pid} shuts the bus down; {unsettled} unsettled events are dropped"),
        Reply(link.number, message.request, None),
        Stop(),
    ]
    return ANSWERED_LATER


@handles(requests.Observe)
def observe(step: Step, link: LinkState, message: requests.Observe) -> None:
    if not link.observes:
        link.observes = True
        begin_idling(step, link.idle_deadline_ns)


@handles(requests.CutOff)
def cut_off(step: Step, link: LinkState, message: requests.CutOff) -> bool:
    victim = step.state.links.get(message.victim)
    if victim is None:
        return False
    if len(victim.blames) < BLAMES_MAX:
        victim.blames[Blame(message.subscriber, message.sequence, message.reason[:REASON_LENGTH_MAX])] = None
    return True


@handles(requests.Goodbye)
def goodbye(step: Step, link: LinkState, message: requests.Goodbye) -> None:
    link.leaving = True
