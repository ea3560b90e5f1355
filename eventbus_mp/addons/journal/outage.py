"""What becomes of events while the store is away: they wait in the bus, or in a spool, a store on the local disk."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from eventbus_mp.addons.journal.figures import FiguresFile
from eventbus_mp.addons.journal.row import Row
from eventbus_mp.addons.journal.store import Rejected, Selection, Store, Stored, StoreError, StoreLocked

__all__ = ["SAY_S", "Blocking", "Outage", "Spooling"]

log = logging.getLogger("eventbus_mp.journal")

PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 5.0
SAY_S = 60.0
"""A store that stays away is mentioned once in so many seconds."""
SHIPPED_ROWS = 1_000
SHIPPED_REJECTED = 100
SHIPPED_PAGES = 5
"""How many pages go from the spool to the store between two batches."""


class Outage(Protocol):
    """The way from a writer to its store."""

    def append(self, rows: Sequence[Row], rejected: Sequence[Rejected], run: int | None) -> Stored | None:
        """As `Store.append`; blocks as long as it takes. None: asked to stop before anything was stored.

        Raises:
            StoreLocked: Another process writes now.
        """

    def drop_rejected(self, topic: str, id: str | int) -> None:
        """Forget a rejected event, unless the store is away; raises as `append`."""

    def tend(self) -> None:
        """Do what is due, between two batches; raises as `append`."""


class Blocking:
    """Tries again for ever. Meanwhile events wait in the bus, and when that is full, producers wait.

    Args:
        store: The store.
        is_asked: Set: to stop.
        waiting: What to say of what waits.
        figures: Where outages are noted.
    """

    def __init__(
        self, store: Store, is_asked: threading.Event, waiting: Callable[[], str], figures: FiguresFile
    ) -> None:
        self._store = store
        self._is_asked = is_asked
        self._waiting = waiting
        self._figures = figures
        self._began_s = 0.0
        self._said_s = 0.0

    def append(
        self,
        rows: Sequence[Row],
        rejected: Sequence[Rejected],
        run: int | None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> Stored | None:
        """See `Outage`. Also None: `is_over`, which is asked after each attempt that failed."""
        pause_s = PAUSE_FIRST_S
        self._began_s = 0.0
        while True:
            try:
                stored = self._store.append(rows, rejected, run=run)
            except StoreLocked:
                raise
            except StoreError as error:
                self._figures.note_failure(error)
                self._say(error)
            else:
                if self._began_s:
                    self._figures.note(error="")
                    away_s = time.monotonic() - self._began_s
                    log.warning("%s is back after %.1f s", self._store.url, away_s)
                return stored
            if is_over() or self._is_asked.wait(pause_s * random.uniform(0.5, 1.0)):
                return None
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def drop_rejected(self, topic: str, id: str | int) -> None:
        """See `Outage`."""
        try:
            self._store.drop_rejected([(topic, id)])
        except StoreLocked:
            raise
        except StoreError as error:
            log.warning("event %r of topic %r is stored, and stays among the rejected: %s", id, topic, error)

    def tend(self) -> None:
        """Nothing is due."""

    def _say(self, error: StoreError) -> None:
        """One line at once, and then one a minute."""
        now_s = time.monotonic()
        if not self._began_s:
            self._began_s = now_s
            log.error("events cannot be stored, and are tried again: %s", error)
        elif now_s - self._said_s >= SAY_S:
            log.error("not stored since %.0f s (%s); %s", now_s - self._began_s, error, self._waiting())
        else:
            return
        self._said_s = now_s


class Spooling:
    """Stores in a spool while the store is away, and ships from there, in order, when it is back.

    Args:
        store: The store.
        spool: Another one, on the local disk, with its lock. What is in it already is shipped first.
        is_asked: Set: to stop.
        waiting: What to say of what waits in the bus while even the spool is away.
        figures: Where outages are noted, and how much is in the spool.
    """

    def __init__(
        self,
        store: Store,
        spool: Store,
        is_asked: threading.Event,
        waiting: Callable[[], str],
        figures: FiguresFile,
    ) -> None:
        self._store = store
        self._spool = spool
        self._to_store = Blocking(store, is_asked, waiting, figures)
        self._to_spool = Blocking(spool, is_asked, waiting, figures)
        self._figures = figures
        self._is_spooling = spool.last_position() > 0
        self._spooled = spool.count(Selection())
        figures.note(spooled=self._spooled)
        self._run: int | None = None
        self._shipped = self._shipped_rejected = 0
        """Up to these positions, the store has what is in the spool."""
        self._has_leftovers = False
        """Of that, something could not be deleted."""
        self._pause_s = PAUSE_FIRST_S
        self._next_try_s = 0.0
        self._said_s = time.monotonic()

    def append(self, rows: Sequence[Row], rejected: Sequence[Rejected], run: int | None) -> Stored | None:
        """See `Outage`. What is in the spool counts as stored."""
        self._run = run
        while True:
            if not self._is_spooling and (stored := self._at_once(rows, rejected)) is not None:
                return stored
            spooled = self._to_spool.append(rows, rejected, None, self._has_shipped)
            if spooled is not None:
                self._spooled += spooled.stored
                self._figures.note(spooled=self._spooled)
            if spooled is not None or self._is_spooling:
                return spooled

    def _at_once(self, rows: Sequence[Row], rejected: Sequence[Rejected]) -> Stored | None:
        try:
            return self._store.append(rows, rejected, run=self._run)
        except StoreLocked:
            raise
        except StoreError as error:
            log.error("events go to the spool %s: %s", self._spool.url, error)
            self._is_spooling = True
            self._figures.note_failure(error)
            self._put_off()
            return None

    def _has_shipped(self) -> bool:
        """While the spool takes nothing, as on a full disk: whether the store is back, and has what was in it."""
        self.tend()
        return not self._is_spooling

    def drop_rejected(self, topic: str, id: str | int) -> None:
        """See `Outage`."""
        for one in (self._to_store, self._to_spool):
            one.drop_rejected(topic, id)

    def tend(self) -> None:
        """Ship some of what is in the spool, if the store is back."""
        if time.monotonic() < self._next_try_s:
            return
        try:
            if self._is_spooling:
                self._ship_some()
            elif self._has_leftovers:
                self._forget_shipped()
        except StoreLocked:
            raise
        except StoreError as error:
            self._figures.note_failure(error)
            self._put_off()
            if time.monotonic() - self._said_s >= SAY_S:
                self._said_s = time.monotonic()
                log.error("%d events are in the spool: %s", self._spooled, error)
        else:
            self._pause_s = PAUSE_FIRST_S

    def _ship_some(self) -> None:
        for _ in range(SHIPPED_PAGES):
            page = self._spool.page(Selection(after=self._shipped), SHIPPED_ROWS)
            if not page:
                break
            self._store.append([entry.row for entry in page], run=self._run)
            self._shipped = page[-1].position
            self._spooled -= len(page)
            self._figures.note(spooled=self._spooled)
            if not self._has_leftovers:
                self._forget_shipped()
        else:
            return
        while rejected := self._spool.rejected(SHIPPED_REJECTED, after=self._shipped_rejected):
            self._store.append([], rejected, run=self._run)
            self._shipped_rejected = rejected[-1].position
        self._forget_shipped()
        self._is_spooling = False
        self._figures.note(error="", spooled=0)
        log.warning("%s is back, and has what was in the spool", self._store.url)

    def _forget_shipped(self) -> None:
        """Delete from the spool what the store has.

        If the spool cannot do that, as on a full disk, it is tried again later, and nothing waits for it. A journal
        that begins before ships it once more, and the store leaves out what it has.
        """
        try:
            topics, deleted = self._spool.topics(), SHIPPED_ROWS
            while deleted == SHIPPED_ROWS:
                deleted = self._spool.delete_below(self._shipped + 1, topics, SHIPPED_ROWS)
            while shipped := self._shipped_rejects():
                self._spool.drop_rejected(shipped)
            self._spool.reclaim()
        except StoreLocked:
            raise
        except StoreError as error:
            if not self._has_leftovers:
                log.warning("what was shipped stays in the spool for now: %s", error)
            self._has_leftovers = True
            self._put_off()
        else:
            self._has_leftovers = False

    def _shipped_rejects(self) -> list[tuple[str, str | int]]:
        found = self._spool.rejected(SHIPPED_REJECTED)
        return [(one.topic, one.id) for one in found if one.position <= self._shipped_rejected]

    def _put_off(self) -> None:
        self._next_try_s = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
