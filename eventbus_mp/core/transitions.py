"""The state machine of a delivery.

A delivery is one event for one subscriber. It is in exactly one state:

    QUEUED      waits in its subscriber's queue or quarantine, or for its time; nobody reads the payload for it
    SENT        exactly one live endpoint has it in flight
    COMPLETED   settled
    SKIPPED     settled

`DELIVERY_TRANSITIONS` is the whole machine. Each cell has the state that follows, and the function that performs the
transition, or that finds that there is nothing to do: a repeated or late message changes nothing.

The table is not executed: the core changes the state of a whole batch of deliveries at a time, and stores no state but
where a bit is. QUEUED is "in the batch's `waiting`, or in the subscriber's `quarantine` or `delayed`", SENT is "in an
endpoint's `in_flight`", settled is "gone from `unsettled`". Three tests hold the table and the code together.
tests/core/test_transitions.py finds every function of the core that writes one of these, and compares them with
`WRITERS`; and it checks that each function in the table exists and leads to a writer. The model in tests/properties
walks the table, one delivery at a time, and is compared with the core after each of many random messages.
"""

from __future__ import annotations

__all__ = ["COMPLETED", "DELIVERY_TRANSITIONS", "QUEUED", "SENT", "SKIPPED", "WRITERS"]

QUEUED, SENT, COMPLETED, SKIPPED = "queued", "sent", "completed", "skipped"

# Of a settled delivery nothing is left that could change. These are the functions that notice.
_SETTLED_BY = {
    "completed": "outcomes.on_settled",
    "skipped": "outcomes.on_settled",
    "holder_crashed": "redelivery.reclaim",
    "returned": "redelivery.return_to_front",
    "retried": "redelivery.come_again",
    "given_up": "skips.skip_all_waiting",
    "expired": "skips.expire",
}

DELIVERY_TRANSITIONS: dict[str, dict[str, tuple[str, str]]] = {
    QUEUED: {
        "dispatched": (SENT, "dispatcher.dispatch"),
        # A process that does not hold it marks the event.
        "completed": (COMPLETED, "settlement.settle_waiting"),
        "skipped": (SKIPPED, "settlement.settle_waiting"),
        # It is not the one that the process held.
        "holder_crashed": (QUEUED, "redelivery.reclaim"),
        "returned": (QUEUED, "redelivery.return_to_front"),
        "retried": (QUEUED, "redelivery.come_again"),
        "given_up": (SKIPPED, "skips.give_up"),
        "expired": (SKIPPED, "skips.expire"),
    },
    SENT: {
        "completed": (COMPLETED, "settlement.settle_held"),
        "skipped": (SKIPPED, "settlement.settle_held"),
        "holder_crashed": (QUEUED, "redelivery.reclaim"),
        "returned": (QUEUED, "redelivery.return_to_front"),
        "retried": (QUEUED, "redelivery.come_again"),
        # It has come back, and goes to nobody else.
        "given_up": (SKIPPED, "skips.skip_held"),
        # A reader may be at it: its process looks at the deadline itself.
        "expired": (SENT, "skips.expire"),
    },
    COMPLETED: {event: (COMPLETED, function) for event, function in _SETTLED_BY.items()},
    SKIPPED: {event: (SKIPPED, function) for event, function in _SETTLED_BY.items()},
}

WRITERS: dict[str, tuple[str, ...]] = {
    "dead_letters._hold_back": ("waiting",),
    "dispatcher._dispatch_quarantined": ("quarantine",),
    "dispatcher._take": ("waiting",),
    "entities.Endpoint.add_in_flight": ("in_flight",),
    "entities.Endpoint.release_all_in_flight": ("in_flight",),
    "entities.Endpoint.release_in_flight": ("in_flight",),
    "entities.SubscriberState.delay": ("delayed",),
    "entities.SubscriberState.to_front": ("waiting",),
    "entities.SubscriberState.undelay": ("delayed",),
    "ingest.append_batch": ("unsettled", "waiting"),
    "redelivery._quarantine_crashed": ("quarantine",),
    "redelivery._to_front": ("quarantine",),
    "settlement._settle": ("completed", "unsettled"),
    "settlement.settle_waiting": ("quarantine", "waiting"),
}
"""Every function that changes the state of a delivery -> what it writes. `ingest.append_batch` makes new ones."""
