"""What a peer offers. A new peer is one module with these three classes, and a line in `peers/__init__.py`.

The rules that make it the same work for everybody: one event is one small dict, made while the clock runs;
every subscriber decodes every event and acknowledges it; the clock stops when the producer knows of the last
acknowledgement.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["Data", "Peer", "Rig", "Take", "Ticket"]

Data = dict[str, Any]
Take = Callable[[Data], None]


class Ticket(ABC):
    """What one consumer process is given: it can be pickled, and has no connection yet."""

    @abstractmethod
    def consume(self, take: Take, ready: Callable[[], None], stopping: threading.Event) -> None:
        """Connect, say `ready()` when nothing can be missed any more, and `take` each event's decoded data.

        Acknowledge each event after `take` has returned. Return at the latest when `stopping` is set.
        """


class Rig(ABC):
    """The producer's side of one run."""

    @abstractmethod
    def ticket(self, subscriber: int) -> Ticket:
        """For one more process of this subscriber; the processes of one subscriber share its events."""

    @abstractmethod
    def publish(self, items: Iterable[Data]) -> None:
        """Send each item to every subscriber. It may return before they have it."""

    @abstractmethod
    def finish(self, timeout_s: float) -> None:
        """Nothing more comes: wait until every subscriber has acknowledged everything.

        Raises:
            TimeoutError: It did not happen within `timeout_s`.
        """

    def servers(self) -> dict[str, int]:
        """The processes between producer and consumers: what it is -> pid."""
        return {}


class Peer(ABC):
    """One way to get events from a process to others."""

    name: str
    paced = True
    """Whether it also runs where events are sent one at a time at a fixed pace."""

    def missing(self) -> str | None:
        """Why it cannot run here, such as a package that is not installed; None when it can."""
        return None

    @abstractmethod
    def open(self, subscribers: int) -> AbstractContextManager[Rig]:
        """Set up everything but the consumers; leaving takes all of it down, whatever happened."""
