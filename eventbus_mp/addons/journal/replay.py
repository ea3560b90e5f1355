"""Replay: the entries of a journal published again, in their order, on a bus that is named.

Whatever handled an event handles it again. So a replay refuses the bus that the journal records, unless its caller
means just that, and topics that nobody is subscribed to. An event keeps its id, and gets the header `eventbus-replay`
by which handlers and traces can tell. JetStream's replay policies ("instant" and "original") are the two kinds of pace.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event as Flag
from time import monotonic, time_ns
from typing import Literal, NamedTuple, get_args

from eventbus_mp import (
    BusClosed,
    BusFull,
    Event,
    EventBus,
    EventBusError,
    EventShadow,
    LostBus,
    ManagerLost,
    NoSubscriber,
    UsageError,
)
from eventbus_mp.addons.checks import checked_bus, checked_count, checked_text
from eventbus_mp.addons.journal.pace import AsFastAsItGoes, Pace
from eventbus_mp.addons.journal.pages import pages_of
from eventbus_mp.addons.journal.row import TIME_UNITS_NS, Entry, event_of
from eventbus_mp.addons.journal.selecting import matching
from eventbus_mp.addons.journal.store import Checkpoint, Selection, Store
from eventbus_mp.addons.service import call_on_lost

__all__ = ["Plan", "Replay", "Replayed", "Ttl"]

log = logging.getLogger("eventbus_mp.journal")

Ttl = Literal["strip", "restart", "keep"]
HEADER = "eventbus-replay"
FULL_S = 1.0
"""How long to wait for memory before looking whether to stop."""
COMPLAINT_S = 60.0
"""A bus that stays full is mentioned once in so many seconds."""
CHECKPOINT_S = 1.0
ALL = Selection()


class Plan(NamedTuple):
    """What a replay would publish, as things are."""

    events: Mapping[str, int]
    """Topic -> how many."""
    unheard: tuple[str, ...]
    """Topics of these that nobody is subscribed to on the target."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay has done."""

    published: int = 0
    dropped: int = 0
    """Nobody was subscribed."""
    expired: int = 0
    """With `ttl="keep"`: their time was over."""
    refused: int = 0
    """The target cannot take them: too large for it, or of another format. The log says which."""
    next_position: int = 0
    """Everything in front of it is done."""
    is_complete: bool = False
    """False: it was stopped."""


class Replay:
    """Publishes entries of a journal on a bus. Made once, run once.

    Args:
        store: The journal.
        bus: A handle of the target.
        selection: Which entries. What is recorded after the replay has begun is no part of it.
        limit: How many of them at most; None: all.
        pace: When each event is due; None: as fast as it goes.
        ttl: "strip" publishes without a ttl, for it counts from `occurred_at` and would be over; "restart" sets
            `occurred_at` to now; "keep" leaves both, and leaves out what has expired.
        name: Of its checkpoint, which it keeps in the store: run again with this name it goes on where it was stopped
            or killed, and publishes what it had published since the last checkpoint (a second at most) once more.
            None: it has no checkpoint.
        into_live: Whether the target may be the bus that the journal records.
        allow_drop: Whether topics may have no subscriber; their events are counted as dropped.

    Raises:
        UsageError: An argument is wrong; or the target is the bus that the journal records, or has another time unit;
            or the checkpoint belongs to another target, or to a replay that has ended.
        StoreUnavailable, StoreUnusable: The store cannot be read.
    """

    def __init__(
        self,
        store: Store,
        bus: EventBus,
        selection: Selection = ALL,
        *,
        limit: int | None = None,
        pace: Pace | None = None,
        ttl: Ttl = "strip",
        name: str | None = None,
        into_live: bool = False,
        allow_drop: bool = False,
    ) -> None:
        if ttl not in get_args(Ttl):
            raise UsageError(f"Replay: ttl={ttl!r}; give one of {', '.join(get_args(Ttl))}")
        if limit is not None:
            checked_count("limit", limit, 0)
        if name is not None:
            checked_text("name", name)
        if not isinstance(selection, Selection):
            raise UsageError(f"Replay: selection={selection!r:.80} is a {type(selection).__name__}; give a Selection")
        if not hasattr(store, "page"):
            raise UsageError(f"Replay: store={store!r:.80}; give a store, which `open_store` returns")
        self._store = store
        self._bus = checked_bus("bus", bus)
        self._pace: Pace = pace or AsFastAsItGoes()
        self._ttl = ttl
        self._limit = limit
        self._allow_drop = allow_drop
        self._mark, self._unit_ns = self._check_target(into_live)
        self._checkpoint, self._selection = self._begin(name, selection)
        self._saved_s = 0.0
        self._complained_s = 0.0
        self._stop = Flag()
        self._lost: LostBus | None = None
        self.done = Replayed(next_position=self._selection.after + 1)
        """What it has done so far; another thread may look."""

    def stop(self) -> None:
        """Have `run` return after the event that it publishes; safe in a signal handler, and in another thread."""
        self._stop.set()

    def plan(self) -> Plan:
        """What it would publish. It reads through the index of the journal, and asks the bus once."""
        events = self._store.count_per_topic(self._selection)
        patterns = {pattern for subscriber in self._bus.subscribers() for pattern in subscriber.patterns}
        heard = {topic for pattern in patterns for topic in matching(pattern, events)}
        return Plan(events, tuple(sorted(set(events) - heard)))

    def run(self) -> Replayed:
        """Publish. Blocks until all is published, however long the bus is full, or until `stop`.

        Raises:
            NoSubscriber: Nobody is subscribed to a topic. If that was so from the beginning, nothing was published;
                otherwise some of its events were dropped, and the checkpoint is in front of them.
            ManagerLost: The target was lost, even if the handle has come back: what was waiting there is gone. What it
                had not delivered of this replay is in front of `done.next_position`.
            BusClosed: The handle was closed.
            StoreUnavailable, StoreUnusable: As of `Store`.
        """
        call_on_lost(self._bus, self._note_loss)
        self._prepare_topics()
        try:
            for batch in self._batches():
                if not self._publish(batch):
                    return self.done
                self._save()
            self.done = replace(self.done, is_complete=True)
            return self.done
        finally:
            self._save(at_end=True)

    def _note_loss(self, lost: LostBus) -> None:
        self._lost = lost

    # --- before it begins ---

    def _check_target(self, into_live: bool) -> tuple[str, int]:
        """(what the header names the journal, nanoseconds in the target's time unit)."""
        runs, bus = self._store.runs(), self._bus
        if not into_live and any(run.bus == bus.name for run in runs):
            raise UsageError(
                f"bus {bus.name!r} is the one that this journal records: its handlers would handle these events again. "
                "Name another bus, or say that this is meant with into_live (--into-live)"
            )
        unit = bus.config.time_unit
        others = {run.time_unit for run in runs} - {unit}
        if others:
            raise UsageError(
                f"the journal's events have their times in {others.pop()}s, and bus {bus.name!r} has {unit}s; start "
                "that bus with the journal's time_unit"
            )
        return (runs[-1].bus if runs else "journal"), TIME_UNITS_NS[unit]

    def _begin(self, name: str | None, selection: Selection) -> tuple[Checkpoint | None, Selection]:
        """The checkpoint to keep, and what is selected from there on."""
        last = self._store.last_position() + 1
        until = last if selection.before is None else min(last, selection.before)
        if name is None:
            return None, replace(selection, before=until)
        target = self._bus.name
        found = next((item for item in self._store.checkpoints() if item.name == name), None)
        if found is None:
            found = Checkpoint(name, target, selection.after + 1, until, time_ns())
            self._store.save_checkpoint(found)  # From now on, what it needs is kept.
        if found.target != target:
            raise UsageError(f"the replay {name!r} publishes to bus {found.target!r}, not to {target!r}")
        if found.ended:
            raise UsageError(f"the replay {name!r} has ended; give another name, or drop its checkpoint")
        after = max(selection.after, found.next_position - 1)
        return found, replace(selection, after=after, before=found.until_position)

    def _prepare_topics(self) -> None:
        plan = self.plan()
        if plan.unheard and not self._allow_drop:
            raise self._unheard(plan.unheard[0], "nothing was published")
        for topic in plan.events:
            self._bus.register_topic(topic)

    def _unheard(self, topic: str, what: str) -> NoSubscriber:
        return NoSubscriber(
            f"nobody is subscribed to topic {topic!r} of bus {self._bus.name!r}; {what}. Start its subscribers first, "
            "or leave the topic out, or have it dropped with allow_drop (--allow-drop)"
        )

    # --- publishing ---

    def _batches(self) -> Iterator[list[Entry]]:
        """What is published together: a page, or one event if they are not due at once."""
        left = self._limit
        for page in pages_of(self._store, self._selection):
            entries = page if left is None else page[:left]
            if left is not None:
                left -= len(entries)
            if isinstance(self._pace, AsFastAsItGoes):
                yield entries
            else:
                yield from ([entry] for entry in entries)
            if left == 0:
                return

    def _publish(self, entries: Sequence[Entry]) -> bool:
        """Publish a batch; False: it was stopped in front of it, or in the middle."""
        if not entries:
            return True
        if not self._pace.wait(entries[0].row.recorded_ns, self._stop):
            return False
        events, at = [], []
        for entry in entries:
            event = self._event(entry)
            if event is not None:
                events.append(event)
                at.append(entry.position)
        first = 0
        while first < len(events):
            first += self._notify(events[first:], at[first:])
            if self._stop.is_set() and first < len(events):
                return False
        self.done = replace(self.done, next_position=entries[-1].position + 1)
        return True

    def _notify(self, events: Sequence[Event], at: Sequence[int]) -> int:
        """Publish the first ones of these events at these positions, and count them: how many are done with."""
        try:
            shadows: Sequence[EventShadow] = self._bus.notify_many(events, timeout_s=FULL_S)
        except BusFull as error:
            self._say_full(error)
            shadows = error.published
        except (BusClosed, ManagerLost):
            raise
        except EventBusError as error:
            if len(events) > 1:
                return self._notify(events[: len(events) // 2], at)  # One of them cannot be published; look for it.
            self._refuse(events[0].topic, events[0].id, error)
            return 1
        if self._lost is not None:  # These went to the bus after it, or to none.
            raise ManagerLost(f"bus {self._bus.name!r} was lost amid the replay: {self._lost.reason}")
        if shadows:
            self._count(shadows, at)
        return len(shadows)

    def _count(self, shadows: Sequence[EventShadow], at: Sequence[int]) -> None:
        lost = [index for index, shadow in enumerate(shadows) if shadow.dropped]
        end = lost[0] if lost and not self._allow_drop else len(shadows)
        self.done = replace(
            self.done,
            published=self.done.published + end - sum(index < end for index in lost),
            dropped=self.done.dropped + len(lost),
            next_position=at[end] if end < len(shadows) else at[end - 1] + 1,
        )
        if end < len(shadows):
            raise self._unheard(shadows[end].topic, f"{len(lost)} events were dropped, from position {at[end]} on")

    def _event(self, entry: Entry) -> Event | None:
        """The event to publish; None: it is not published."""
        # hot path: once an event, 2.5 us.
        position, row = entry
        if row.ttl is not None:
            if self._ttl == "strip":
                row = row._replace(ttl=None)
            elif self._ttl == "restart":
                row = row._replace(occurred_at=time_ns() // self._unit_ns)
            elif row.expires_ns is not None and row.expires_ns <= time_ns():
                self.done = replace(self.done, expired=self.done.expired + 1)
                return None
        headers = json.loads(row.headers) if row.headers is not None else {}
        headers[HEADER] = f"{self._mark}:{position}"
        try:
            return event_of(row, headers=headers)
        except UsageError as error:
            self._refuse(row.topic, row.id, error)
            return None

    def _refuse(self, topic: str, id: str | int, error: EventBusError) -> None:
        log.error("event %r of topic %r is not replayed: %s", id, topic, error)
        self.done = replace(self.done, refused=self.done.refused + 1)

    def _say_full(self, error: BusFull) -> None:
        if monotonic() - self._complained_s > COMPLAINT_S:
            self._complained_s = monotonic()
            log.warning("a replay waits for memory of bus %r: %s", self._bus.name, error)

    def _save(self, *, at_end: bool = False) -> None:
        """Write the checkpoint, if it is time to."""
        if self._checkpoint is None or (not at_end and monotonic() - self._saved_s < CHECKPOINT_S):
            return
        self._saved_s = monotonic()
        done = self.done
        self._store.save_checkpoint(
            replace(self._checkpoint, next_position=done.next_position, updated_ns=time_ns(), ended=done.is_complete)
        )
