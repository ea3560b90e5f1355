"""A process that is idle gives back the memory of events that only the garbage collector frees."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest

from eventbus_mp import Event, EventBus

Fork = Callable[..., Any]


class Fails(Exception):
    """What a handler raises."""


def fail(events: Any) -> None:
    error = Fails()
    raise error  # Its traceback has this frame, which has the error and the events: a cycle.


@pytest.mark.parametrize("style", ["events", "batches", "inbox"])
def test_events_in_a_cycle(bus: EventBus, fork: Fork, style: str) -> None:
    def work(to_parent: Any) -> None:
        gc.disable()  # As if the process made few objects.
        logging.disable()  # Pytest keeps what was logged, with its tracebacks.
        if style == "inbox":
            inbox = bus.inbox("one", ["a"])
            to_parent.send("ready")
            taken = 0
            while taken < 40:
                for shadow, event in inbox.events(20, 20):
                    try:
                        fail(event)
                    except Fails:
                        taken += 1
                    inbox.complete(shadow)
            del event
            inbox.get(60)
        else:
            bus.on("a", name="one", batch=20 if style == "batches" else None)(fail)
            to_parent.send("ready")
            to_parent.recv()
        bus.close()

    child = fork(work)
    assert child.hear() == "ready"
    bus.notify_many([Event(number, "a", memoryview(bytes(20_000))) for number in range(40)])
    bus.drain(timeout_s=30)
    with bus.inbox("others", ["b"]) as pauses:  # A wait between two questions: a process that hears things is not idle.
        while bus.statistics().memory_bytes_leased:
            pauses.get(0.05)
    if style == "inbox":
        bus.notify(Event("the end", "a", None))
    else:
        child.tell("the end")
    assert child.wait() == 0
