"""From the rows of an outbox to the bus: what it has accepted, what it never can, and what has to wait.

Events of one topic are published in the order of their positions. A topic whose events nobody would get is held, and
the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from eventbus_mp import (
    BusClosed,
    BusFull,
    Event,
    EventBus,
    EventBusError,
    EventShadow,
    ManagerLost,
    NoSubscriber,
    UnknownTopic,
    UsageError,
)
from eventbus_mp.addons.journal.row import Entry, event_of
from eventbus_mp.addons.outbox.stop import StopFlag
from eventbus_mp.addons.outbox.store import Refused

__all__ = ["HELD_S", "Published", "Publishing"]

log = logging.getLogger("eventbus_mp.outbox")

FULL_S = 0.5
"""How long to wait for memory of the bus before looking whether to stop."""
HELD_S = 0.25
"""How often to look whether a topic that is held has a subscriber now."""
COMPLAINT_S = 60.0
REASON_LENGTH_MAX = 200


@dataclass
class Published:
    """What became of the entries of one look into the outbox; those that are in neither wait for the next one."""

    accepted: list[int] = field(default_factory=list)
    """Positions of events that the bus has."""
    refused: list[Refused] = field(default_factory=list)
    dropped: int = 0
    """How many of the accepted ones nobody got, with `allow_drop`."""
    is_full: bool = False
    """The bus had no memory for the rest."""


@dataclass
class _Batch:
    """Events that are published together, with their positions."""

    positions: list[int]
    events: list[Event]

    def cut(self, first: int, last: int | None = None) -> _Batch:
        return _Batch(self.positions[first:last], self.events[first:last])


class Publishing:
    """Args:
    bus: The bus.
    allow_drop: Whether events that nobody is subscribed to count as published.
    stop: Set: to stop.
    """

    def __init__(self, bus: EventBus, *, allow_drop: bool, stop: StopFlag) -> None:
        self._bus = bus
        self._allow_drop = allow_drop
        self._stop = stop
        self.held: dict[str, str] = {}
        """Topic -> why its events wait."""
        self._heard: set[str] = set()
        """Topics that had a subscriber when it was looked last."""
        self._looked_s = 0.0
        self._complained_s: dict[str, float] = {}
        """What -> when that was logged last."""

    def publish(self, entries: Sequence[Entry]) -> Published:
        """Publish what can be published. Blocks while the bus is full, for half a second at most.

        Raises:
            EventBusError: The bus is away, or was closed. Whatever it had accepted just before may be lost with it, so
                all of it is to be published again.
        """
        done = Published()
        batch = _Batch([], [])
        for entry in entries:
            try:
                event = event_of(entry.row)
            except (EventBusError, ValueError, TypeError) as error:  # Made by hand, or by another version.
                self._refuse(done, entry.position, f"{entry.row.topic!r:.80}", entry.row.id, error)
            else:
                batch.positions.append(entry.position)
                batch.events.append(event)
        self._look_at(sorted({event.topic for event in batch.events} - self._heard))
        self._notify(batch, done)
        return done

    def release_held(self) -> bool:
        """Look, if it is time to, whether topics that are held have somebody now: whether one of them has."""
        if not self.held or monotonic() - self._looked_s < HELD_S:
            return False
        self._looked_s = monotonic()
        before = len(self.held)
        self._look_at(list(self.held))
        return len(self.held) < before

    def forget(self) -> None:
        """The bus was lost: who is subscribed to the next one is not known."""
        self._heard.clear()

    def _look_at(self, topics: Sequence[str]) -> None:
        """Hold those that nobody is subscribed to, or let them go."""
        for topic in topics:
            try:
                if not self._bus.config.strict:
                    self._bus.register_topic(topic)  # A producer with a handle would have done it.
                is_heard = self._allow_drop or bool(self._bus.subscribers(topic))
            except UsageError:  # It cannot name a topic; `notify_many` will say so of each of its events.
                is_heard = True
            if is_heard:
                self._heard.add(topic)
                self.held.pop(topic, None)
            else:
                self._hold(topic, f"nobody is subscribed to topic {topic!r} of bus {self._bus.name!r}")

    def _hold(self, topic: str, reason: str) -> None:
        self._heard.discard(topic)
        self.held[topic] = reason
        self._complain(topic, f"{reason}; its events wait in the outbox")

    def _notify(self, batch: _Batch, done: Published) -> None:
        """Publish a batch. If the bus says that one of its events cannot be, look for it by halves."""
        if self.held:
            kept = [at for at, event in enumerate(batch.events) if event.topic not in self.held]
            batch = _Batch([batch.positions[at] for at in kept], [batch.events[at] for at in kept])
        if not batch.events or done.is_full or self._stop.is_set():
            return
        try:
            shadows: Sequence[EventShadow] = self._bus.notify_many(batch.events, timeout_s=FULL_S)
        except BusFull as error:
            done.is_full = True
            self._complain("", f"the outbox waits for memory of bus {self._bus.name!r}: {error}")
            shadows = error.published
        except (BusClosed, ManagerLost):
            raise
        except (UsageError, NoSubscriber) as error:
            self._accept(batch, error.published, done)
            self._notify_without(batch.cut(len(error.published)), error, done)
            return
        self._accept(batch, shadows, done)

    def _notify_without(self, batch: _Batch, error: EventBusError, done: Published) -> None:
        """One of these events brought this error."""
        if len(batch.events) > 1:
            middle = len(batch.events) // 2
            self._notify(batch.cut(0, middle), done)
            self._notify(batch.cut(middle), done)
        elif isinstance(error, (NoSubscriber, UnknownTopic)):
            self._hold(batch.events[0].topic, str(error))
        else:
            event = batch.events[0]
            self._refuse(done, batch.positions[0], repr(event.topic), event.id, error)

    def _accept(self, batch: _Batch, shadows: Sequence[EventShadow], done: Published) -> None:
        for position, shadow in zip(batch.positions, shadows, strict=False):
            if not shadow.dropped:
                done.accepted.append(position)
            elif self._allow_drop:
                done.accepted.append(position)
                done.dropped += 1
            else:
                self._hold(shadow.topic, f"topic {shadow.topic!r} has lost its last subscriber")

    def _refuse(self, done: Published, position: int, topic: str, id: object, error: Exception) -> None:
        log.error("event %r of topic %s, position %d, is put aside: %s", id, topic, position, error)
        done.refused.append(Refused(position, f"{type(error).__name__}: {error}"[:REASON_LENGTH_MAX]))

    def _complain(self, what: str, text: str) -> None:
        """Say it at once, and then once a minute."""
        now_s = monotonic()
        if now_s - self._complained_s.get(what, -COMPLAINT_S) >= COMPLAINT_S:
            self._complained_s[what] = now_s
            log.warning("%s", text)
