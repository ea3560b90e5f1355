"""Notes of a run in the store: what the counters of the bus were when the journal began, lately, and at the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from eventbus_mp import EventBus, ManagerLost, Snapshot, UsageError
from eventbus_mp.addons.journal.counters import first_counts, notified_counts, subscriber_of
from eventbus_mp.addons.journal.store import Run, Store, StoreError, StoreLocked

__all__ = ["NameTaken", "RunNotes"]

log = logging.getLogger("eventbus_mp.journal")

NOTE_S = 10.0


class NameTaken(UsageError):
    """Another process that lives is subscribed by this name: a journal of another store, or a writer that has lost its
    lock and has not heard of it yet."""


class RunNotes:
    """Args:
    bus: The bus.
    store: With its lock.
    name: The subscriber's name.
    patterns: Its patterns.
    """

    def __init__(self, bus: EventBus, store: Store, name: str, patterns: list[str]) -> None:
        self._bus = bus
        self._store = store
        self._name = name
        self._patterns = patterns
        self.number: int | None = None
        """Of the run; None: it has not begun."""
        self._started_ns = 0
        self._noted_s = 0.0
        self._known: dict[str, int] = {}

    def before(self) -> tuple[Mapping[str, int], bool]:
        """Before the subscription: the counters, and whether the subscriber is there from a run before.

        Raises:
            NameTaken: A process is subscribed by this name, which would share the events.
        """
        snapshot = self._bus.snapshot()
        subscriber = subscriber_of(snapshot, self._name)
        for pid in subscriber.pids if subscriber is not None else ():
            if _is_alive(pid):
                raise NameTaken(
                    f"process {pid} is subscribed to bus {self._bus.name!r} as {self._name!r}, and each would get a "
                    "part of the events; give this journal another name, or use one store"
                )
        continues = subscriber is not None and list(subscriber.patterns) == self._patterns
        return notified_counts(snapshot, self._patterns), continues

    def begin(self, before: Mapping[str, int], *, continues: bool = False) -> None:
        """After the subscription: note that a run begins.

        Raises:
            StoreError: As of `Store`.
        """
        snapshot = self._bus.snapshot()
        after = notified_counts(snapshot, self._patterns)
        first = dict(before) if continues else first_counts(before, after, _delivered(snapshot, self._name))
        self._started_ns = time.time_ns()
        self.number = self._store.begin_run(
            Run(
                bus=self._bus.name,
                incarnation=snapshot.manager.incarnation,
                time_unit=self._bus.config.time_unit,
                subscriber=self._name,
                patterns=tuple(self._patterns),
                continues=continues,
                started_ns=self._started_ns,
                notified_first=first,
                noted_ns=self._started_ns,
                notified_last=after,
                waiting=_waiting(snapshot, self._name),
            )
        )
        self._known = after
        self._noted_s = time.monotonic()

    def note_in_time(self) -> None:
        """Note the counters, if that is due.

        Raises:
            StoreLocked: Another process writes now.
            ManagerLost: As of the bus.
        """
        if time.monotonic() - self._noted_s < NOTE_S:
            return
        self._noted_s = time.monotonic()
        self._note(ended=False)

    def end(self) -> None:
        """Note that the run ends here."""
        try:
            self._note(ended=True)
        except ManagerLost:
            log.info("the run ends without its last counters: the bus is gone")
        except StoreLocked as error:
            log.info("the run ends without its last counters: %s", error)

    def _note(self, *, ended: bool) -> None:
        if self.number is None:
            return
        snapshot = self._bus.snapshot()
        notified, waiting = notified_counts(snapshot, self._patterns), _waiting(snapshot, self._name)
        try:
            if not any(run.number == self.number and run.started_ns == self._started_ns for run in self._store.runs()):
                log.warning("%s is another journal than before: its run begins here", self._store.url)
                self.begin(self._known)
            self._store.note_run(self.number, noted_ns=time.time_ns(), notified=notified, waiting=waiting, ended=ended)
            self._known = notified
        except StoreLocked:
            raise
        except StoreError as error:
            log.warning("the counters of this run are not noted: %s", error)


def _delivered(snapshot: Snapshot, name: str) -> int:
    """How many deliveries the subscriber has had."""
    found = subscriber_of(snapshot, name)
    return found.queued + found.in_flight + found.completed + found.skipped if found is not None else 0


def _waiting(snapshot: Snapshot, name: str) -> int:
    found = subscriber_of(snapshot, name)
    return found.queued + found.in_flight if found is not None else 0


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that was killed and not collected yet does not."""
    if pid == os.getpid():
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")
