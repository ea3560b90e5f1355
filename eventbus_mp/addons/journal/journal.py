"""Journal: stores every event of a bus, on a thread of its own."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from eventbus_mp import EventBus, EventBusError, LostBus, UsageError
from eventbus_mp.addons.checks import checked_bus, checked_text, checked_texts
from eventbus_mp.addons.journal.counters import subscriber_of
from eventbus_mp.addons.journal.figures import Figures, FiguresFile
from eventbus_mp.addons.journal.opening import default_url, open_store
from eventbus_mp.addons.journal.outage import SAY_S, Blocking, Outage, Spooling
from eventbus_mp.addons.journal.retention import Pruning, Retention
from eventbus_mp.addons.journal.run_notes import NameTaken
from eventbus_mp.addons.journal.selecting import matching
from eventbus_mp.addons.journal.store import Store, StoreLocked, StoreUnavailable
from eventbus_mp.addons.journal.urls import shown_url
from eventbus_mp.addons.journal.writer import BatchLimits, Counts, Writer
from eventbus_mp.addons.service import Service, call_on_lost

__all__ = ["Journal", "JournalStatus"]

log = logging.getLogger("eventbus_mp.journal")

STANDBY_S = 0.5
"""How often a standby asks for the lock: no store can wait for it and be asked to stop."""
CREDIT_MAX = 1 << 19


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """What a journal has done since it was started."""

    state: str
    """"starting", "writing", "standing by" (another process writes), "stopped" or "failed"."""
    stored: int
    duplicates: int
    rejected: int
    commits: int
    commit_s: float
    """How long a commit takes, on average; 0: there was none."""


class Journal(Service):
    """Stores every event of a bus in a database, and settles it only when it is there.

    One process at a time writes to a store; another journal of the same store stands by until that one is gone. `start`
    refuses (`UsageError`) to begin while another process is subscribed by this name, with another store. `stop` stores
    what was taken, and leaves the rest to the next writer: the subscriber stays for `orphan_grace_s` of the bus, and a
    journal that is started within this time misses nothing.

    Args:
        bus: The bus. Its handle may be used for other things as well.
        url: Of the store: see `open_store`. None: `default_url`.
        patterns: Of topics, as of `EventBus.subscribe`; by default all.
        name: The subscriber's name, for `EventBus(require=[...])` as well. Two stores of one bus need two names.
        keep: How long events stay, "30d" for example, or "forever".
        keep_topics: The same for topics that a pattern matches: `{"debug_": "1h"}`; the first pattern that does.
        own_ttl: Whether an event goes when its own ttl is over, if that is sooner.
        batch_events: A batch is stored when it has so many events;
        batch_bytes: or so many bytes of data;
        batch_within_s: or so many seconds after its first event came.
        on_outage: What becomes of events while the store is away. "block": they wait in the bus, and when that is full,
            producers wait. "spool": they are stored in the `spool` and shipped later.
        spool: The URL of the spool, a SQLite store on the local disk; None: beside the default store of the bus.

    Raises:
        UsageError: An argument is not valid.
        InvalidPattern: A pattern is not a regular expression.
    """

    _kind = "journal"
    _thread_name = "eventbus_mp journal"
    _log = log

    def __init__(
        self,
        bus: EventBus,
        url: str | None = None,
        *,
        patterns: Iterable[str] = ("",),
        name: str = "journal",
        keep: str | None = "30d",
        keep_topics: Mapping[str, str | None] | None = None,
        own_ttl: bool = True,
        batch_events: int = 1_000,
        batch_bytes: int = 4 << 20,
        batch_within_s: float = 0.05,
        on_outage: str = "block",
        spool: str | None = None,
    ) -> None:
        self._bus = checked_bus("bus", bus)
        self._url = checked_text("url", url) if url is not None else default_url(bus.name)
        self.url = shown_url(self._url)
        """As it may be shown: without a password."""
        super().__init__(f"the journal {self.url}")
        self._patterns = [patterns] if isinstance(patterns, str) else checked_texts("patterns", patterns)
        for pattern in self._patterns:
            matching(pattern, ())
        self._name = checked_text("name", name)
        self._retention = Retention(keep, keep_topics if keep_topics is not None else {}, own_ttl)
        self._limits = _checked_limits(batch_events, batch_bytes, batch_within_s)
        if on_outage not in ("block", "spool"):
            raise UsageError(f"on_outage={on_outage!r} is neither 'block' nor 'spool'")
        if spool is not None and on_outage != "spool":
            raise UsageError(f"spool={spool!r} needs on_outage='spool'")
        self._spool: str | None = None
        if on_outage == "spool":
            self._spool = checked_text("spool", spool) if spool is not None else default_url(f"{bus.name}-spool")
        self._is_asked = threading.Event()
        self._bus_was_lost = threading.Event()
        call_on_lost(bus, self._note_loss)
        self._counts = Counts()
        self._said_s = -SAY_S

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting until it is done; a signal handler may call it."""
        self._is_asked.set()

    def status(self) -> JournalStatus:
        """What it does and has done. Never blocks."""
        counts = self._counts
        commit_s = counts.commit_ns / counts.commits / 1e9 if counts.commits else 0.0
        return JournalStatus(self._state, counts.stored, counts.duplicates, counts.rejected, counts.commits, commit_s)

    # --- on the thread ---

    def _begin_anew(self) -> None:
        self._is_asked.clear()

    def _work(self) -> None:
        while not self._is_asked.is_set():
            try:
                self._write()
            except StoreLocked as error:
                if not self._is_settled.is_set():
                    raise
                self._state = "standing by"
                log.error("another process writes now: %s", error)
            except (StoreUnavailable, NameTaken) as error:
                if not self._is_settled.is_set():
                    raise
                self._give_way(error)

    def _note_loss(self, lost: LostBus) -> None:
        self._bus_was_lost.set()

    def _write(self) -> None:
        """Be the one writer from the time when the lock is free, until it is lost or stop is asked for."""
        with ExitStack() as stack:
            store = stack.enter_context(open_store(self._url, writes=True))
            if not self._await_lock(store):
                return
            figures = FiguresFile(self._url, Figures(self._bus.name, self._name, os.getpid()))
            stack.callback(figures.close)
            outage = self._outage(store, stack, figures)
            writer = Writer(
                self._bus,
                store,
                name=self._name,
                patterns=self._patterns,
                limits=self._limits,
                pruning=Pruning(store, self._retention),
                outage=outage,
                is_asked=self._is_asked,
                bus_was_lost=self._bus_was_lost,
                counts=self._counts,
                figures=figures,
            )
            writer.run(self._begun)

    def _await_lock(self, store: Store) -> bool:
        """Stand by until the lock is held; False: asked to stop before."""
        while not store.take_lock():
            if self._state != "standing by":
                log.info("standing by: another process writes %s", store.url)
                self._state = "standing by"
                self._is_settled.set()
            if self._is_asked.wait(STANDBY_S):
                return False
        return True

    def _give_way(self, error: EventBusError) -> None:
        """It was about to write, and cannot: stand by again.

        The store is away. Or its server was restarted, and this journal got the lock that another process had, which
        is still subscribed: the next one that asks gets it. An outage while it writes does not come here: see `Outage`.
        """
        now_s = time.monotonic()
        if now_s - self._said_s >= SAY_S:
            self._said_s = now_s
            log.warning("standing by: %s", error)
        self._state = "standing by"
        self._is_asked.wait(STANDBY_S * random.uniform(0.5, 1.0))

    def _outage(self, store: Store, stack: ExitStack, figures: FiguresFile) -> Outage:
        if self._spool is None:
            return Blocking(store, self._is_asked, self._waiting(), figures)
        spool = stack.enter_context(open_store(self._spool, writes=True))
        if not spool.take_lock():
            raise UsageError(f"the spool {spool.url} is used by another process; give each journal its own")
        return Spooling(store, spool, self._is_asked, self._waiting(), figures)

    def _begun(self) -> None:
        log.info("bus %r is stored in %s", self._bus.name, self.url)
        self._state = "writing"
        self._is_settled.set()

    def _waiting(self) -> _Waiting:
        return _Waiting(self._bus, self._name)


class _Waiting:
    """Says how much waits in the bus, and how long there is room."""

    def __init__(self, bus: EventBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._last: tuple[float, int] | None = None

    def __call__(self) -> str:
        try:
            snapshot = self._bus.snapshot()
        except EventBusError as error:
            return f"the bus does not answer: {error}"
        now_s, used, limit = time.monotonic(), snapshot.memory.bytes_used, snapshot.memory.bytes_max
        last, self._last = self._last, (now_s, used)
        subscriber = subscriber_of(snapshot, self._name)
        waits = subscriber.queued + subscriber.in_flight if subscriber is not None else 0
        text = f"{waits:,} events wait; {used:,} of {limit:,} bytes of the bus are used"
        if last is not None and used > last[1]:
            left_s = (limit - used) * (now_s - last[0]) / (used - last[1])
            return f"{text}; it is full in about {left_s:,.0f} s"
        return text


def _checked_limits(events: int, nbytes: int, within_s: float) -> BatchLimits:
    if type(events) is not int or not 1 <= events <= CREDIT_MAX:
        raise UsageError(f"batch_events={events!r} is not a number from 1 to {CREDIT_MAX:,}")
    if type(nbytes) is not int or nbytes < 1:
        raise UsageError(f"batch_bytes={nbytes!r} is not a number, 1 or more")
    if not isinstance(within_s, (int, float)) or not 0 <= within_s <= 3_600:
        raise UsageError(f"batch_within_s={within_s!r} is not a time in seconds, from 0 to 3,600")
    return BatchLimits(events, nbytes, within_s)
