"""An instrument for tests that notes what it is told."""

from collections.abc import Sequence
from typing import Any

from eventbus_mp import Deliveries, Event, EventShadow, Instrument, SubscriberKey
from eventbus_mp.ids import EventId


class Recorder(Instrument):
    """Notes every hook with its arguments, but for those of connecting."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def take(self) -> list[tuple[Any, ...]]:
        seen, self.seen = self.seen, []
        return seen

    def before_connect(self, bus: str) -> None:
        self.seen.append(("before_connect", bus))

    def after_connect(self, bus: str, error: BaseException | None) -> None:
        self.seen.append(("after_connect", bus, error))

    def before_takeover(self, bus: str, manager_pid: int) -> None:
        self.seen.append(("before_takeover", bus, manager_pid))

    def after_takeover(self, bus: str, manager_pid: int, error: BaseException | None) -> None:
        self.seen.append(("after_takeover", bus, manager_pid, error))

    def before_subscribe(self, subscriber: SubscriberKey, patterns: Sequence[str]) -> None:
        self.seen.append(("before_subscribe", subscriber.name, patterns))

    def after_subscribe(self, subscriber: SubscriberKey, patterns: Sequence[str], error: BaseException | None) -> None:
        self.seen.append(("after_subscribe", subscriber.name, patterns, type(error)))

    def before_notify(self, events: Sequence[Event]) -> None:
        self.seen.append(("before_notify", [event.id for event in events]))

    def after_notify(
        self, events: Sequence[Event], shadows: Sequence[EventShadow], error: BaseException | None
    ) -> None:
        self.seen.append(("after_notify", [event.id for event in events], list(shadows), type(error)))

    def before_fetch(self, shadow: EventShadow | tuple[str, EventId]) -> None:
        self.seen.append(("before_fetch", shadow))

    def after_fetch(
        self, shadow: EventShadow | tuple[str, EventId], event: Event | None, error: BaseException | None
    ) -> None:
        self.seen.append(("after_fetch", shadow, event and event.data, error))

    def before_receive(self, subscriber: SubscriberKey, limit: int) -> None:
        self.seen.append(("before_receive", subscriber.name, limit))

    def after_receive(self, subscriber: SubscriberKey, shadows: Deliveries, error: BaseException | None) -> None:
        self.seen.append(("after_receive", list(shadows), type(error)))

    def before_handle(self, subscriber: SubscriberKey, items: Sequence[Any]) -> None:
        self.seen.append(("before_handle", subscriber.name, [item.id for item in items]))

    def after_handle(
        self, subscriber: SubscriberKey, items: Sequence[Any], outcomes: Sequence[str], error: BaseException | None
    ) -> None:
        self.seen.append(("after_handle", [item.id for item in items], list(outcomes), type(error)))

    def before_settle(self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str) -> None:
        self.seen.append(("before_settle", subscriber.name, list(shadows), outcome))

    def after_settle(
        self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str, error: BaseException | None
    ) -> None:
        self.seen.append(("after_settle", list(shadows), outcome, type(error)))
