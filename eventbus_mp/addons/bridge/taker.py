"""The bridge's thread that takes from the bus: deliveries for other hosts, and what changes in the registry."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future

from eventbus_mp import BusClosed, EventBus, Forwarder, ManagerLost, RawEvent, SubscriberKey
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.registry import Registry
from eventbus_mp.addons.bridge.targets import key_of

__all__ = ["Place", "Round", "Taker"]

log = logging.getLogger("eventbus_mp.bridge")

TAKEN_MAX = 512
"""How many deliveries of one subscriber are taken at a time."""

Place = tuple[str | None, Target]
"""A subscriber of another host, or (None) of the whole cluster."""
Round = list[tuple[str | None, Target, Sequence[RawEvent]]]


class Taker(threading.Thread):
    """Everything here that touches a `Forwarder` runs on this thread; the other methods only note what is to be done.

    Args:
        bus: The bus.
        on_round: Called on this thread with deliveries that were taken.
        on_registry: Called on this thread when the registry has changed.
        on_failed: Called on this thread with the error that ended it.
    """

    def __init__(
        self,
        bus: EventBus,
        on_round: Callable[[Round], None],
        on_registry: Callable[[Registry], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="eventbus_mp bridge, out", daemon=True)
        self._bus = bus
        self._on_round = on_round
        self._on_registry = on_registry
        self._on_failed = on_failed
        self._life = bus.life
        self._changes = bus.changes()
        self._registry = Registry()
        self._forwarders: dict[Place, Forwarder] = {}
        self._patterns: dict[Place, list[str]] = {}
        self._by_fd: dict[int, Place] = {}
        self._paused: set[str] = set()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._is_ending = False

    # --- from any thread ---

    def call(self, what: Callable[[], None]) -> None:
        """Have this called on the thread, after what was asked for before."""
        self._calls.append(what)
        os.eventfd_write(self._wake_fd, 1)

    def host(self, wanted: Mapping[Place, list[str]]) -> None:
        """Host these subscribers, with these patterns, and no others."""
        self.call(lambda: self._host(wanted))

    def settle(self, place: Place, ranges: Sequence[tuple[int, int]], outcome: str, reason: str) -> None:
        """Settle deliveries; of a subscriber that is not hosted any more, there are none."""
        self.call(lambda: self._settle(place, ranges, outcome, reason))

    def settled(self) -> Future[None]:
        """Done when all that was to be settled before is."""
        future: Future[None] = Future()
        self.call(lambda: future.set_result(None))
        return future

    def resend(self, place: Place, sequences: Iterable[int]) -> None:
        """Give out those of these deliveries once more that are unsettled."""
        self.call(lambda: self._resend(place, frozenset(sequences)))

    def pause(self, host: str, *, is_paused: bool) -> None:
        """Take nothing more for this host, or go on."""
        self.call(lambda: self._pause(host, is_paused=is_paused))

    def skip(self, host: str, reason: str, *, only_expired: bool) -> None:
        """Skip what was taken for this host: all of it, or what has a deadline that is over."""
        self.call(lambda: self._skip(host, reason, only_expired=only_expired))

    def end(self) -> None:
        """Hand back what is unsettled, keep the subscribers for a bridge that comes soon, and end the thread."""
        self._is_ending = True
        self.call(lambda: None)
        self.join()

    # --- on the thread ---

    def run(self) -> None:
        try:
            self._poll.register(self._wake_fd, select.POLLIN)
            self._poll.register(self._changes.fileno(), select.POLLIN)
            self._take_changes()
            while not self._is_ending:
                ready = {fd for fd, _ in self._poll.poll()}
                if self._wake_fd in ready:
                    self._do_calls()
                if self._changes.fileno() in ready:
                    self._take_changes()
                self._take(ready)
        except BaseException as error:
            self._on_failed(error)
        finally:
            self._close()

    def _close(self) -> None:
        for forwarder in self._forwarders.values():
            forwarder.close(keep=True)
        self._changes.close()
        os.close(self._wake_fd)

    def _do_calls(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._calls:
            self._calls.popleft()()

    def _take_changes(self) -> None:
        changes = self._changes.get(0)
        if any(change.kind == "reset" for change in changes) and self._bus.life != self._life:
            raise ManagerLost("the bus has ended and begun anew")
        if changes and self._registry.take(changes):
            self._on_registry(self._registry)

    def _take(self, ready: Iterable[int]) -> None:
        found: Round = []
        for fd in ready:
            place = self._by_fd.get(fd)
            if place is not None and place[0] not in self._paused:
                events = self._forwarders[place].take(TAKEN_MAX, 0)
                if events:
                    found.append((*place, events))
        if found:
            self._on_round(found)

    def _host(self, wanted: Mapping[Place, list[str]]) -> None:
        for place in [place for place in self._forwarders if self._patterns[place] != wanted.get(place)]:
            self._drop(place, keep=place in wanted)
        for place, patterns in wanted.items():
            if place not in self._forwarders:
                self._add(place, patterns)

    def _add(self, place: Place, patterns: list[str]) -> None:
        host, target = place
        key: SubscriberKey = key_of(target, host)
        forwarder = self._forwarders[place] = self._bus.forwarder(key, patterns)
        self._patterns[place] = patterns
        self._by_fd[forwarder.fileno()] = place
        if host not in self._paused:
            self._poll.register(forwarder.fileno(), select.POLLIN)

    def _drop(self, place: Place, *, keep: bool) -> None:
        forwarder = self._forwarders.pop(place)
        self._patterns.pop(place)
        fd = forwarder.fileno()
        del self._by_fd[fd]
        if place[0] not in self._paused:
            self._poll.unregister(fd)
        # One of the whole cluster stays the subscriber of those who host it here.
        forwarder.close(keep=keep or place[0] is None)

    def _settle(self, place: Place, ranges: Sequence[tuple[int, int]], outcome: str, reason: str) -> None:
        # It is a subscriber of that host, or one of the whole cluster.
        forwarder = self._forwarders.get(place) or self._forwarders.get((None, place[1]))
        if forwarder is not None:
            try:
                forwarder.settle(ranges, outcome, reason)
            except BusClosed:
                log.debug("%s was unsubscribed meanwhile", place)

    def _resend(self, place: Place, sequences: frozenset[int]) -> None:
        forwarder = self._forwarders.get(place)
        if forwarder is not None and (
            events := [event for event in forwarder.unsettled() if event.sequence in sequences]
        ):
            self._on_round([(*place, events)])

    def _skip(self, host: str, reason: str, *, only_expired: bool) -> None:
        now_ns = time.monotonic_ns()
        for (owner, _), forwarder in self._forwarders.items():
            if owner == host:
                events = forwarder.unsettled()
                over = [item for item in events if not only_expired or 0 < item.deadline_ns <= now_ns]
                forwarder.settle([(item.sequence, 1) for item in over], "skipped", reason)

    def _pause(self, host: str, *, is_paused: bool) -> None:
        if is_paused == (host in self._paused):
            return
        for fd, (owner, _) in self._by_fd.items():
            if owner == host and is_paused:
                self._poll.unregister(fd)
            elif owner == host:
                self._poll.register(fd, select.POLLIN)
        (self._paused.add if is_paused else self._paused.discard)(host)
