"""The loop of a journal's one writer: take, store, and settle only what the store has.

When this process is killed before the store has a batch, all of it is delivered again and stored then. When it is
killed after that, it is delivered again as well, and is there already. So an event is in the store once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from eventbus_mp import DecodeError, EncodeError, Event, EventBus, EventShadow, Inbox, ManagerLost
from eventbus_mp.addons.journal.figures import BUCKETS, FiguresFile
from eventbus_mp.addons.journal.outage import Outage
from eventbus_mp.addons.journal.retention import STEP_ROWS, Pruning
from eventbus_mp.addons.journal.row import TIME_UNITS_NS, RefusedRow, Row, row_of
from eventbus_mp.addons.journal.run_notes import RunNotes
from eventbus_mp.addons.journal.store import Rejected, Store, StoreError, StoreLocked

__all__ = ["BatchLimits", "Counts", "Writer"]

log = logging.getLogger("eventbus_mp.journal")

LOOK_S = 0.2
"""How long to wait for an event before looking whether something else is to be done."""
PRUNE_S = 10.0
MEASURE_S = 5.0
"""How often to ask the store how large it is."""
BUSY_STEP_ROWS = STEP_ROWS // 10
"""How many rows are deleted at once while events come."""
REASON_LENGTH_MAX = 200


@dataclass(frozen=True)
class BatchLimits:
    """When a batch is stored: whichever is reached first."""

    events: int = 1_000
    nbytes: int = 4 << 20
    within_s: float = 0.05
    """Since its first event was taken."""


@dataclass
class Counts:
    """What a writer has done since it began; other threads may read them."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    commits: int = 0
    commit_ns: int = 0
    """In storing, all commits together."""
    commit_log2_ns: list[int] = field(default_factory=lambda: [0] * BUCKETS)


@dataclass
class _Batch:
    """What goes into one transaction, and how it is settled then."""

    run: int | None
    """In which it came."""
    rows: list[Row] = field(default_factory=list)
    shadows: list[EventShadow] = field(default_factory=list)
    """Of the rows."""
    rejected: list[Rejected] = field(default_factory=list)
    skipped: list[tuple[EventShadow, str]] = field(default_factory=list)
    nbytes: int = 0
    is_last_attempt: bool = False
    """Its event is among the rejected, in case that this process crashes with it."""


class Writer:
    """Args:
    bus: The bus.
    store: With its lock.
    name: The subscriber's name.
    patterns: Of topics.
    limits: When a batch is stored.
    pruning: What deletes old entries; None: nothing does.
    outage: What becomes of a batch while the store is away.
    is_asked: Set: to stop.
    bus_was_lost: Set when it was.
    counts: What it counts goes here.
    figures: Where other processes see that.
    """

    def __init__(
        self,
        bus: EventBus,
        store: Store,
        *,
        name: str,
        patterns: Sequence[str],
        limits: BatchLimits,
        pruning: Pruning | None,
        outage: Outage,
        is_asked: threading.Event,
        bus_was_lost: threading.Event,
        counts: Counts,
        figures: FiguresFile,
    ) -> None:
        self._bus = bus
        self._name = name
        self._patterns = list(patterns)
        self._limits = limits
        self._pruning = pruning
        self._outage = outage
        self._is_asked = is_asked
        self._notes = RunNotes(bus, store, name, self._patterns)
        self._unit_ns = TIME_UNITS_NS[bus.config.time_unit]
        self._bus_was_lost = bus_was_lost
        self._pruned_s = time.monotonic()
        self._counts = counts
        self._store_itself = store
        self._figures = figures
        self._measured_s = 0.0
        self._caught_up_ns = 0

    def run(self, began: Callable[[], object]) -> None:
        """Write until it is asked to stop; then store what was taken, and leave the rest to the next writer.

        Args:
            began: Called once, when the journal is subscribed.

        Raises:
            StoreLocked: Another process writes now.
            UsageError: Another journal is subscribed by this name.
        """
        self._bus_was_lost.clear()
        if self._bus.config.crashes_max == 1:
            log.warning(
                "bus %r has crashes_max=1: what a journal holds when it is killed is lost; give the bus 2 or more",
                self._bus.name,
            )
        before, continues = self._notes.before()
        inbox = self._bus.inbox(self._name, self._patterns, credit=2 * self._limits.events)
        try:
            self._notes.begin(before, continues=continues)
            began()
            while not self._is_asked.is_set():
                try:
                    self._turn(inbox)
                except ManagerLost as error:
                    self._await_bus(error)
            self._notes.end()
        finally:
            inbox.close(keep=True)  # What waits is for the next writer.

    def _await_bus(self, error: ManagerLost) -> None:
        """The bus is gone, and the next call looks whether it is back."""
        log.debug("bus %r is away: %s", self._bus.name, error)
        self._is_asked.wait(LOOK_S)

    def _turn(self, inbox: Inbox) -> None:
        batches = self._take(inbox)
        for batch in batches:
            self._store(inbox, batch)
        self._note_figures()
        self._outage.tend()
        self._notes.note_in_time()
        self._prune_in_time(is_idle=not batches)

    def _take(self, inbox: Inbox) -> list[_Batch]:
        """What comes until a batch is full or the time is over; several batches if so much came at once."""
        limits = self._limits
        taken = self._events(inbox, limits.events, LOOK_S)
        if not taken:
            self._caught_up_ns = time.monotonic_ns()
            return []
        if self._is_last_attempt(inbox, taken[0][0]):
            return self._alone(inbox, taken)
        batches = [_Batch(self._notes.number)]
        self._add(batches, taken)
        deadline_s = time.monotonic() + limits.within_s
        count = len(taken)
        while count < limits.events and len(batches) == 1 and not self._is_asked.is_set():
            left_s = deadline_s - time.monotonic()
            more = self._events(inbox, limits.events - count, max(0.0, min(left_s, LOOK_S)))
            if not more:
                self._caught_up_ns = time.monotonic_ns()
                if left_s <= LOOK_S:
                    break
                continue
            if self._is_last_attempt(inbox, more[0][0]):
                return [*batches, *self._alone(inbox, more)]
            if batches[-1].run != self._notes.number:
                batches.append(_Batch(self._notes.number))
            self._add(batches, more)
            count += len(more)
        return batches if batches[-1].shadows or batches[-1].rejected else batches[:-1]

    def _events(self, inbox: Inbox, limit: int, wait_s: float) -> list[tuple[EventShadow, Event]]:
        """What the inbox has. If the bus was lost meanwhile, it is of the next one, and of a run that begins here."""
        taken = inbox.events(limit, wait_s)
        if self._bus_was_lost.is_set():
            self._bus_was_lost.clear()
            try:
                self._notes.begin({})
            except BaseException:
                self._bus_was_lost.set()
                for shadow, _ in taken:
                    inbox.release(shadow)
                raise
        return taken

    def _is_last_attempt(self, inbox: Inbox, shadow: EventShadow) -> bool:
        """Whether the bus gives this event up if this process crashes with it.

        What a dead writer held comes back one by one. As long as an event has another attempt it may be stored together
        with others, and so it is cheap; at its last one it is stored alone, or one that crashes every writer would take
        others along.
        """
        attempt = inbox.attempt(shadow)
        return attempt > 1 and attempt >= self._bus.config.crashes_max

    def _alone(self, inbox: Inbox, taken: list[tuple[EventShadow, Event]]) -> list[_Batch]:
        """The batch of an event at its last attempt. It is among the rejected until it is stored."""
        shadow = taken[0][0]
        reason = f"the journal's process crashed {inbox.attempt(shadow)} times with it"
        mark = Rejected(shadow.topic, shadow.id, reason, None, None, 0, time.time_ns())
        if self._outage.append([], [mark], None) is None:
            return []  # Asked to stop.
        batches = [_Batch(self._notes.number, is_last_attempt=True)]
        self._add(batches, taken)
        if batches[0].rejected:  # For another reason, which is to be the one that is kept.
            self._outage.drop_rejected(shadow.topic, shadow.id)
            batches[0].is_last_attempt = False
        return [batch for batch in batches if batch.shadows or batch.rejected]

    def _add(self, batches: list[_Batch], taken: list[tuple[EventShadow, Event]]) -> None:
        """Put events into the last of the batches, and begin another one when it is full."""
        # hot path: 2 us an event, nearly all of it `row_of`.
        now_ns, unit_ns, nbytes_max, batch = time.time_ns(), self._unit_ns, self._limits.nbytes, batches[-1]
        for shadow, event in taken:
            try:
                row = row_of(event, now_ns, unit_ns)
            except RefusedRow as refused:
                reason = str(refused)[:REASON_LENGTH_MAX]
                batch.skipped.append((shadow, reason))
                batch.rejected.append(_rejected(shadow, event, reason, now_ns))
                continue
            batch.rows.append(row)
            batch.shadows.append(shadow)
            batch.nbytes += len(row.data) + (len(row.buffers) if row.buffers is not None else 0)
            if batch.nbytes >= nbytes_max:
                batch = _Batch(batch.run)
                batches.append(batch)

    def _store(self, inbox: Inbox, batch: _Batch) -> None:
        began_ns = time.perf_counter_ns()
        stored = self._outage.append(batch.rows, batch.rejected, batch.run)
        if stored is None:
            return  # Asked to stop while the store was away: what is not settled goes to the next writer.
        counts, took_ns = self._counts, time.perf_counter_ns() - began_ns
        counts.commits += 1
        counts.commit_ns += took_ns
        counts.commit_log2_ns[min(took_ns.bit_length(), BUCKETS - 1)] += 1
        counts.stored += stored.stored
        counts.duplicates += stored.duplicates
        counts.rejected += len(batch.rejected) + len(stored.refused)
        if batch.is_last_attempt and not stored.refused:
            self._outage.drop_rejected(batch.shadows[0].topic, batch.shadows[0].id)
        self._settle(inbox, batch, dict(stored.refused))

    def _settle(self, inbox: Inbox, batch: _Batch, refused: dict[int, str]) -> None:
        """Everything is in the store by now: only from here on may a delivery be settled."""
        if not refused:
            inbox.complete_many(batch.shadows)
        else:
            inbox.complete_many(shadow for index, shadow in enumerate(batch.shadows) if index not in refused)
        for index, reason in refused.items():
            batch.skipped.append((batch.shadows[index], reason[:REASON_LENGTH_MAX]))
        for shadow, reason in batch.skipped:
            log.error("event %r of topic %r is not in the journal: %s", shadow.id, shadow.topic, reason)
            inbox.skip(shadow, reason)

    def _note_figures(self) -> None:
        counts, known = self._counts, self._figures.figures
        changed: dict[str, Any] = {}
        if counts.commits != known.commits:
            changed = {**vars(counts), "commit_log2_ns": tuple(counts.commit_log2_ns)}
        if time.monotonic() - self._measured_s >= MEASURE_S and not known.error:
            self._measured_s = time.monotonic()
            with suppress(StoreError):  # What is wrong shows when something is stored.
                changed["position"] = self._store_itself.last_position()
                changed["store_bytes"] = self._store_itself.size_bytes()
        self._figures.note(caught_up_ns=self._caught_up_ns or known.caught_up_ns, **changed)

    def _prune_in_time(self, *, is_idle: bool) -> None:
        """Delete what is too old: at most a step, so that no event waits long for it."""
        if self._pruning is None or time.monotonic() - self._pruned_s < PRUNE_S:
            return
        limit = STEP_ROWS if is_idle else BUSY_STEP_ROWS
        try:
            deleted = self._pruning.step(time.time_ns(), limit)
        except StoreLocked:
            raise
        except StoreError as error:
            log.warning("old events are not deleted for now: %s", error)
            deleted = 0
        if deleted < limit or not is_idle:
            self._pruned_s = time.monotonic()


def _rejected(shadow: EventShadow, event: Event, reason: str, now_ns: int) -> Rejected:
    try:
        data, buffers, format = event.encoded
    except (DecodeError, EncodeError):
        return Rejected(shadow.topic, shadow.id, reason, None, None, 0, now_ns)
    return Rejected(shadow.topic, shadow.id, reason, data, buffers[0] if buffers else None, format, now_ns)
