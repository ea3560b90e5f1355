"""When the manager may leave: nobody is connected, and nothing waits for somebody who may come back.

A bus is in use while a process is connected that does more than look. After the last one it stays for `manager_idle_s`,
and for as long as a delivery waits for a subscriber within its grace: an app that is stopped and started again finds
its queue. If the manager was asked to end, only the first of these times is left out.
"""

from __future__ import annotations

from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol.effects import Stop, Warn
from eventbus_mp.protocol.messages import EndAsked

__all__ = ["begin_idling", "leave_due_ns", "leave_if_due", "on_end_asked"]


def begin_idling(step: Step, since_ns: int | None = None) -> None:
    """A process that used the bus is gone: if there is no other one, the bus waits for the next one, and ends.

    `since_ns` is when that wait is over, if it began before; None: it begins now.
    """
    state = step.state
    if state.idle_deadline_ns is not None or _users(state):
        return
    idle_s = 0 if state.is_end_asked else state.config.manager_idle_s
    state.idle_deadline_ns = step.now_ns + int(idle_s * 1e9) if since_ns is None else since_ns
    if waits := _what_waits(step):
        step.effects.append(Warn(f"the last process has left; the bus stays {waits}"))


def leave_due_ns(state: BusState) -> int | None:
    """When the bus ends unless a process connects or what waits is settled; None: it is in use."""
    if state.idle_deadline_ns is None:
        return None
    graces = [due_ns for subscriber, due_ns in state.orphans.items() if subscriber.waiting_count]
    return max([state.idle_deadline_ns, *graces])


def leave_if_due(step: Step) -> None:
    """End the bus if it is time to."""
    state = step.state
    due_ns = leave_due_ns(state)
    if due_ns is not None and due_ns <= step.now_ns and not state.is_stopping:
        state.is_stopping = True
        step.effects.append(Stop())


def on_end_asked(step: Step, message: EndAsked) -> None:
    """The manager was asked to end. What is in use is not ended under those who use it."""
    state = step.state
    if state.is_end_asked:
        return
    state.is_end_asked = True
    if state.idle_deadline_ns is not None:
        state.idle_deadline_ns = min(state.idle_deadline_ns, step.now_ns)
    if users := _users(state):
        pids = ", ".join(map(str, sorted(users)))
        stays = f"the bus stays until the processes that use it have left ({pids})"
    else:
        stays = f"the bus stays {_what_waits(step)}" if _what_waits(step) else "nobody uses the bus, which ends"
    step.effects.append(Warn(f"asked to end by a signal: {stays}"))


def _users(state: BusState) -> set[int]:
    """The processes that the bus lives for."""
    return {link.pid for link in state.links.values() if not link.observes}


def _what_waits(step: Step) -> str:
    """For what the bus stays although nobody uses it; empty: for nothing."""
    orphans = [(item, due_ns) for item, due_ns in step.state.orphans.items() if item.waiting_count]
    if not orphans:
        return ""
    left_s = (max(due_ns for _, due_ns in orphans) - step.now_ns) / 1e9
    waits = ", ".join(f"{item.waiting_count} for {item.shown}" for item, _ in orphans)
    return f"up to {left_s:.0f} s for what waits within the grace of its subscriber: {waits}"
