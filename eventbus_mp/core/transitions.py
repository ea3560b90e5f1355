"""The watcher: for each event, who must still settle it.

A delivery is one event for one subscriber. It is in exactly one state:

    QUEUED      waits in its subscriber's queue; nobody reads the payload for it
    SENT        exactly one live endpoint holds its shadow
    COMPLETED   settled
    SKIPPED     settled

`DELIVERY_TRANSITIONS` is the whole machine; a repeated or late message changes nothing. The code stores no state: it
is where a bit is. QUEUED is "in its run's `waiting`, or a suspect", SENT is "in an endpoint's `held`", settled is "gone
from `unsettled`". The model in tests/properties walks the table itself and is compared with the code after every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus_mp.core.batches import EventBatch

__all__ = ["COMPLETED", "DELIVERY_TRANSITIONS", "QUEUED", "SENT", "SKIPPED", "describe"]

QUEUED, SENT, COMPLETED, SKIPPED = "queued", "sent", "completed", "skipped"

DELIVERY_TRANSITIONS: dict[str, dict[str, str]] = {
    QUEUED: {
        "dispatched": SENT,
        "completed": COMPLETED,
        "skipped": SKIPPED,
        "holder_crashed": QUEUED,
        "returned": QUEUED,
        "given_up": SKIPPED,
        "expired": SKIPPED,
    },
    SENT: {
        "completed": COMPLETED,
        "skipped": SKIPPED,
        "holder_crashed": QUEUED,
        "returned": QUEUED,
        "given_up": SKIPPED,
        # A reader may be at it: its process looks at the deadline itself.
        "expired": SENT,
    },
    COMPLETED: dict.fromkeys(("completed", "skipped", "holder_crashed", "returned", "given_up", "expired"), COMPLETED),
    SKIPPED: dict.fromkeys(("completed", "skipped", "holder_crashed", "returned", "given_up", "expired"), SKIPPED),
}


def describe(batch: EventBatch, bit: int) -> list[list[list[object]]]:
    """[subscribers, completers, skippers] of one event, each a list of [name, config]: what travels as a Watcher."""
    watcher: list[list[list[object]]] = [[], [], []]
    for row, subscriber in enumerate(batch.route.subscribers):
        key: list[object] = [subscriber.name, subscriber.config]
        watcher[0].append(key)
        if batch.completed[row] & bit:
            watcher[1].append(key)
        elif not batch.unsettled[row] & bit:
            watcher[2].append(key)
    return watcher
