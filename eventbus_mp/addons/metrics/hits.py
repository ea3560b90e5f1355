"""Counters of the events that went over a bus."""

from __future__ import annotations

from eventbus_mp import EventBus
from eventbus_mp.addons.checks import checked_bus, checked_text

__all__ = ["Hits"]


class Hits:
    """How many events have reached the bus, for each topic and in all, since it started or since `reset`.

    They are the manager's counts: nothing is subscribed, and it makes no difference when this was made. Events that
    were published while nobody was subscribed to their topic need not reach the bus, and are not counted. After the bus
    has ended and started again, all begin at 0. Each call blocks for one round trip.

    Args:
        bus: A handle of the bus.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = checked_bus("bus", bus)
        self._incarnation = ""
        self._reset_at: dict[str, int] = {}

    def of(self, topic: str) -> int:
        """The events of one topic; 0 if it is not registered.

        Raises:
            EventBusError: The bus cannot be asked.
        """
        return self.by_topic().get(checked_text("topic", topic), 0)

    def by_topic(self) -> dict[str, int]:
        """Topic -> its events; raises as `of`."""
        return {name: count - self._reset_at.get(name, 0) for name, count in self._counts().items()}

    def total(self) -> int:
        """The events of all topics; raises as `of`."""
        return sum(self.by_topic().values())

    def reset(self, topic: str | None = None) -> None:
        """Count from 0 on, for one topic or, with None, for all. Other `Hits` of the bus go on; raises as `of`."""
        if topic is not None:
            checked_text("topic", topic)
        counts = self._counts()
        self._reset_at |= counts if topic is None else {topic: counts.get(topic, 0)}

    def _counts(self) -> dict[str, int]:
        now = self._bus.snapshot()
        counts = {item.name: item.notified for item in now.topics}
        if now.manager.incarnation != self._incarnation:
            self._incarnation, self._reset_at = now.manager.incarnation, {}
        for name, count in self._reset_at.items():
            if counts.get(name, 0) < count:  # It was unregistered, and is a new topic of the same name.
                self._reset_at[name] = 0
        return counts
