"""The watcher: for each event, who must still settle it.

A delivery is one event for one subscriber. It is in exactly one state:

    QUEUED      waits in its subscriber's queue; nobody reads the payload for it
    SENT        exactly one live endpoint holds its shadow
    COMPLETED   settled
    SKIPPED     settled

`DELIVERY_TRANSITIONS` is the whole machine; a repeated or late message changes nothing. The code does not store the
state: QUEUED is "in a queue", SENT is "in an endpoint's `held`", settled is "bit gone from `unsettled`". The model in
tests/properties walks the table itself and is compared with the code after every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus_mp.messages import Outcome

if TYPE_CHECKING:
    from eventbus_mp.core.registry import Route
    from eventbus_mp.core.spans import Span

__all__ = ["COMPLETED", "DELIVERY_TRANSITIONS", "QUEUED", "SENT", "SKIPPED", "Letter", "Unsettled", "describe"]

EXPIRED = -1
"""The bucket of an event whose ttl is over: what comes back of it is skipped."""

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


class Unsettled:
    """An event that somebody still has to settle. `raw` is its packed record, sent on as it came.

    Slots, and no reference back from its containers' keys: a million of these must not be work for the collector.
    """

    __slots__ = ("bucket", "completed", "raw", "route", "sequence", "span", "unsettled")

    def __init__(self, sequence: int, raw: bytes, route: Route, span: Span, unsettled: int) -> None:
        self.sequence = sequence
        self.raw = raw
        self.route = route
        self.span = span
        self.unsettled = unsettled
        self.completed = 0
        self.bucket = 0
        """The expiry bucket it waits in; 0: it has no ttl; `EXPIRED`: that is over."""

    def settle(self, bit: int, outcome: int) -> None:
        """Note one subscriber's outcome; the caller has checked that `bit` is unsettled."""
        self.unsettled ^= bit
        if outcome == Outcome.COMPLETED:
            self.completed |= bit


class Letter(Unsettled):
    """A dead letter: the same payload and sequence as the event it was, told to other subscribers."""

    __slots__ = ()


def describe(event: Unsettled) -> list[list[list[object]]]:
    """[subscribers, completers, skippers], each a list of [name, config]: what travels as a Watcher."""
    watcher: list[list[list[object]]] = [[], [], []]
    for subscriber in event.route.subscribers:
        key: list[object] = [subscriber.name, subscriber.config]
        bit = event.route.bit_of[subscriber.number]
        watcher[0].append(key)
        if event.completed & bit:
            watcher[1].append(key)
        elif not event.unsettled & bit:
            watcher[2].append(key)
    return watcher
