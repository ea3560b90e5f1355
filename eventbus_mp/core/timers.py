"""What becomes due with time: deadlines, retries, old leases, orphans, an idle manager, too much in one process."""

from __future__ import annotations

from eventbus_mp.core.hosting import give_up_orphans
from eventbus_mp.core.leases import warn_of_leases
from eventbus_mp.core.leaving import leave_due_ns, leave_if_due
from eventbus_mp.core.recalls import recall
from eventbus_mp.core.redelivery import retry_due
from eventbus_mp.core.skips import expire
from eventbus_mp.core.state import BusState, Step
from eventbus_mp.protocol.messages import TimePassed

__all__ = ["next_due_ns", "on_time_passed"]


def next_due_ns(state: BusState) -> int | None:
    """When `TimePassed` has something to do; None: never, until another message comes."""
    expiry_ns = state.expiry.next_due_ns()
    if (
        expiry_ns is None
        and state.idle_deadline_ns is None
        and state.lease_check_ns is None
        and not state.orphans
        and not state.recall_checks
        and not state.delays.heap
    ):
        return None  # The common case.
    several = (*state.orphans.values(), *state.recall_checks.values())
    singles = (leave_due_ns(state), state.lease_check_ns, expiry_ns, state.delays.next_due_ns())
    return min((due for due in (*several, *singles) if due is not None), default=None)


def on_time_passed(step: Step, message: TimePassed) -> None:
    """Do everything that is due."""
    state, now_ns = step.state, step.now_ns
    expire(step)
    retry_due(step)
    if state.lease_check_ns is not None and state.lease_check_ns <= now_ns:
        warn_of_leases(step)
    give_up_orphans(step)
    if state.recall_checks:
        recall(step)
    leave_if_due(step)
