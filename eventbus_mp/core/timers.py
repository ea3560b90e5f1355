"""What becomes due with time: deadlines, leases that are too old, orphans, an idle manager."""

from __future__ import annotations

from eventbus_mp.core.hosting import give_up_orphans
from eventbus_mp.core.leases import warn_of_leases
from eventbus_mp.core.skips import expire
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol.effects import Stop
from eventbus_mp.protocol.messages import TimePassed

__all__ = ["next_due_ns", "on_time_passed"]


def next_due_ns(state: BusState) -> int | None:
    """When `TimePassed` has something to do; None: never, until another message comes."""
    expiry_ns = state.expiry.next_due_ns()
    if expiry_ns is None and state.idle_deadline_ns is None and state.lease_check_ns is None and not state.orphans:
        return None  # The common case.
    dues = (*state.orphans.values(), state.idle_deadline_ns, state.lease_check_ns, expiry_ns)
    return min(due for due in dues if due is not None)


def on_time_passed(step: Step, message: TimePassed) -> None:
    """Do everything that is due."""
    state, now_ns = step.state, step.now_ns
    expire(step)
    if state.lease_check_ns is not None and state.lease_check_ns <= now_ns:
        warn_of_leases(step)
    give_up_orphans(step)
    if state.idle_deadline_ns is not None and state.idle_deadline_ns <= now_ns and not state.is_stopping:
        state.is_stopping = True
        step.effects.append(Stop())
