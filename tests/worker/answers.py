"""What the handlers of a pool's workers answer: events of topic "b"."""

from __future__ import annotations

from typing import Any

from eventbus_mp import Inbox

__all__ = ["START_METHODS", "take"]

START_METHODS = ("fork", "forkserver", "spawn")


def take(inbox: Inbox, count: int = 1) -> list[Any]:
    """The data of the next `count` events, completed."""
    found: list[Any] = []
    while len(found) < count:
        events = inbox.events(count - len(found), 30)
        assert events, f"only {found} arrived"
        found += [event.data for _, event in events]
        inbox.complete_many(shadow for shadow, _ in events)
    return found
