"""What the tests of faults share: waiting for deaths, and emptying an inbox."""

from __future__ import annotations

import ctypes
import signal
from typing import Any

from eventbus_mp import EventBus

__all__ = ["await_links", "death_of", "end_with_parent", "taken_from"]

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a forked child: have the kernel kill it when the thread that forked it is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def death_of(child: Any) -> list[Any]:
    """Wait until a child is killed; returns what it sent before."""
    sent = []
    while True:
        try:
            sent.append(child.hear())
        except (EOFError, ConnectionResetError):
            break
    assert child.wait() == -signal.SIGKILL
    return sent


def await_links(bus: EventBus, count: int) -> None:
    """Wait until the manager has only `count` processes left, after the others have died or closed their pipes.

    The kernel reports an end to the manager as soon as it happens, and the manager looks at everything that is reported
    before it waits again. So the first or the second answer counts them, unless a standby takes over meanwhile. Each
    question waits for its answer; the test's watchdog ends a vain wait.
    """
    links = bus.statistics().links
    while links > count:
        links = bus.statistics().links


def taken_from(bus: EventBus, inbox: Any, until: str) -> list[tuple[str, Any]]:
    """Take and complete everything up to the event with this id; returns (id, data) in the order of arrival."""
    taken: list[tuple[str, Any]] = []
    while not taken or taken[-1][0] != until:
        shadow = inbox.get(30)
        assert shadow is not None, f"nothing comes after {taken[-1:]}"
        taken.append((shadow.id, bus.fetch_event_data(shadow)))
        inbox.complete(shadow)
    bus.drain(timeout_s=30)
    return taken
