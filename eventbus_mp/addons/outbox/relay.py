"""Relay: publishes what was committed to an outbox, on a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from eventbus_mp import BusClosed, EventBus, EventBusError, LostBus
from eventbus_mp.addons.checks import checked_bus, checked_count, checked_text
from eventbus_mp.addons.journal.retention import duration_ns
from eventbus_mp.addons.journal.row import Entry
from eventbus_mp.addons.journal.store import StoreError, StoreLocked
from eventbus_mp.addons.journal.urls import shown_url
from eventbus_mp.addons.outbox.backoff import Backoff
from eventbus_mp.addons.outbox.opening import open_outbox
from eventbus_mp.addons.outbox.publishing import HELD_S, Publishing
from eventbus_mp.addons.outbox.schema import TABLE
from eventbus_mp.addons.outbox.stop import StopFlag
from eventbus_mp.addons.outbox.store import OutboxStore, Refused
from eventbus_mp.addons.service import Service, call_on_lost

__all__ = ["Relay", "RelayStatus"]

log = logging.getLogger("eventbus_mp.outbox")

STANDBY_S = 0.5
"""How often a standby asks for the lock: no database lets it wait for one and be asked to stop."""
IDLE_S = 10.0
"""How long to wait for a commit before looking all the same."""
PRUNE_S, PRUNED_ROWS = 10.0, 10_000


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """What a relay has done since it was started."""

    state: str
    """"starting", "publishing", "standing by" (another one publishes), "stopped" or "failed"."""
    published: int
    refused: int
    """Put aside, because the bus cannot take them."""
    dropped: int
    """How many of the published ones nobody got; only with `allow_drop`."""
    held: tuple[str, ...]
    """Topics whose events wait for a subscriber."""


class Relay(Service):
    """Publishes what was committed to an outbox, and deletes it when the bus has it.

    One relay at a time publishes from an outbox; another one stands by until that one is gone. An event is published
    once; or again, with the same topic and id, if a relay or a database was killed or lost in between. Within a topic,
    events of one transaction come in the order in which they were added, and an event that was added after another
    transaction had committed comes after those of that one. What was added at the same time comes in any order.

    `start` raises `StoreLocked` if another relay publishes, with `once`. `stop` finishes what is being published; the
    rest waits in the outbox.

    Args:
        bus: The bus. Its `require` counts. The handle may be used for other things as well.
        url: Of the database: see `open_outbox`.
        table: As of `Outbox`.
        once: Publish what is there, and end; else wait for more.
        allow_drop: Whether events of topics that nobody is subscribed to count as published. If not, they wait, and the
            other topics go on.
        keep: How long published events stay in the table, "7d" for example; None: they are deleted at once.
        batch: How many events are published at once, at most.
        poll_s: As of `open_outbox`.

    Raises:
        UsageError: An argument is not valid.
    """

    _kind = "relay"
    _thread_name = "eventbus_mp outbox"
    _log = log

    def __init__(
        self,
        bus: EventBus,
        url: str,
        *,
        table: str = TABLE,
        once: bool = False,
        allow_drop: bool = False,
        keep: str | None = None,
        batch: int = 500,
        poll_s: float | None = None,
    ) -> None:
        self._bus = checked_bus("bus", bus)
        self._url = checked_text("url", url)
        self.url = shown_url(url)
        """Without a password."""
        super().__init__(f"the relay of {self.url}")
        self._table = table
        self._once = once
        self._allow_drop = allow_drop
        self._keep = keep is not None
        self._keep_ns = duration_ns(keep)
        self._batch = checked_count("batch", batch, 1)
        self._poll_s = poll_s
        self._reset()
        call_on_lost(bus, self._note_loss)

    def _reset(self) -> None:
        self._stop = StopFlag()
        self._published = self._refused = self._dropped = 0
        self._pruned_s = 0.0
        self._publishing = Publishing(self._bus, allow_drop=self._allow_drop, stop=self._stop)

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting until it is done; a signal handler may call it."""
        self._stop.set()

    def status(self) -> RelayStatus:
        """What it does and has done. Never blocks."""
        held = tuple(sorted(self._publishing.held.copy()))
        return RelayStatus(self._state, self._published, self._refused, self._dropped, held)

    def __enter__(self) -> Relay:
        # With `once` it may have done it all before the block begins.
        is_done = self._once and self._thread is not None and self._error is None
        return self if is_done else super().__enter__()

    # --- on the thread ---

    def _begin_anew(self) -> None:
        self._stop.close()
        self._reset()

    def _let_go(self) -> None:
        self._stop.close()

    def _work(self) -> None:
        with open_outbox(self._url, table=self._table, poll_s=self._poll_s) as store:
            while not self._stop.is_set() and self._await_lock(store):
                try:
                    self._relay(store)
                    break
                except StoreLocked as error:
                    log.error("%s", error)

    def _note_loss(self, lost: LostBus) -> None:
        self._publishing.forget()

    def _await_lock(self, store: OutboxStore) -> bool:
        """Stand by until the lock is held; False: asked to stop before."""
        pauses = Backoff()
        while not self._try_lock(store, pauses):
            if self._stop.wait(pauses.pause_s() if pauses.is_away else STANDBY_S):
                return False
        return True

    def _try_lock(self, store: OutboxStore, pauses: Backoff) -> bool:
        try:
            is_locked = store.take_lock()
        except StoreError as error:
            if not self._is_settled.is_set():
                raise
            pauses.note(error)
            return False
        pauses.end()
        if not is_locked and self._once:
            raise StoreLocked(f"another relay publishes from {store.url}")
        if not is_locked and self._state != "standing by":
            log.info("standing by: another relay publishes from %s", store.url)
            self._state = "standing by"
            self._is_settled.set()
        return is_locked

    def _relay(self, store: OutboxStore) -> None:
        """Publish, until it is asked to stop, or all is published that is to be, or the lock is lost."""
        if not self._is_settled.is_set():
            self._bus.topics()  # A bus that cannot be reached is an error of `start`; later it is waited for.
        log.info("bus %r gets what is committed to %s", self._bus.name, store.url)
        self._state = "publishing"
        self._is_settled.set()
        pauses = Backoff()
        while not self._stop.is_set():
            try:
                if not self._turn(store) and self._once:
                    return
            except (StoreLocked, BusClosed):
                raise
            except EventBusError as error:
                pauses.note(error)
                self._stop.wait(pauses.pause_s())
            else:
                pauses.end()

    def _turn(self, store: OutboxStore) -> bool:
        """Publish what waits; if nothing does, wait until something was committed. Whether anything was published."""
        self._publishing.release_held()
        entries = store.waiting(self._batch, self._publishing.held)
        if entries:
            self._publish(store, entries)
        elif not self._once:
            self._await_work(store)
        self._prune_in_time(store)
        return bool(entries)

    def _await_work(self, store: OutboxStore) -> None:
        """Until something was committed, or a topic that is held has somebody: a look passes over all that is held."""
        while self._publishing.held:
            if store.wait(HELD_S, self._stop) or self._stop.is_set() or self._publishing.release_held():
                return
            self._prune_in_time(store)
        store.wait(IDLE_S, self._stop)

    def _publish(self, store: OutboxStore, entries: Sequence[Entry]) -> None:
        done = self._publishing.publish(entries)
        if done.accepted or done.refused:
            self._finish(store, done.accepted, done.refused)
        self._published += len(done.accepted)
        self._refused += len(done.refused)
        self._dropped += done.dropped

    def _finish(self, store: OutboxStore, accepted: Sequence[int], refused: Sequence[Refused]) -> None:
        """Have the outbox know it, however long that takes: it must not publish them again only for being away."""
        pauses = Backoff()
        while True:
            try:
                store.finish(accepted, refused, time.time_ns(), keep=self._keep)
            except StoreError as error:
                pauses.note(error)
            else:
                pauses.end()
                return
            if self._stop.wait(pauses.pause_s()):
                return

    def _prune_in_time(self, store: OutboxStore) -> None:
        if self._keep_ns is None or time.monotonic() - self._pruned_s < PRUNE_S:
            return
        if store.prune(time.time_ns() - self._keep_ns, PRUNED_ROWS) < PRUNED_ROWS:
            self._pruned_s = time.monotonic()
