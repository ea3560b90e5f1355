"""What a `TestBus` writes down: the events that were published, and the handlers that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventbus_mp.errors import BusClosed, BusFull
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.instrument import Deliveries, Instrument
from eventbus_mp.statistics import SubscriberKey

__all__ = ["Failure", "ProcessDied", "Recorder"]


class ProcessDied(BusClosed):
    """Raised in a handler whose process the test has killed: the rest of the handler does not run."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A handler that raised."""

    subscriber: SubscriberKey
    items: tuple[Event | EventShadow, ...]
    """What it was called with."""
    error: BaseException


class Recorder(Instrument):
    """Is in every session of a bus. It sees what is published as it was given, also what nobody is subscribed to."""

    def __init__(self) -> None:
        self.notified: list[Event] = []
        self.failures: list[Failure] = []

    def after_notify(
        self, events: Sequence[Event], shadows: Sequence[EventShadow], error: BaseException | None
    ) -> None:
        """Events were published."""
        # `notify_many` that ran into `BusFull` has published the first ones.
        count = len(events) if error is None else len(getattr(error, "published", ()))
        self.notified.extend(events[:count])

    def after_handle(
        self,
        subscriber: SubscriberKey,
        items: Deliveries,
        outcomes: Sequence[str],
        error: BaseException | None,
    ) -> None:
        """A handler has ended."""
        # `BusFull` is not a failure of the handler, which gets the event again.
        if error is not None and "failed" in outcomes and not isinstance(error, (ProcessDied, BusFull)):
            self.failures.append(Failure(subscriber, tuple(items), error))

    def matching(self, topic: str, fields: dict[str, Any]) -> list[Event]:
        """The events of this topic whose fields have these values."""
        return [
            event
            for event in self.notified
            if event.topic == topic and all(getattr(event, name) == value for name, value in fields.items())
        ]
