"""A subscriber that watches events go by: what `tail` shows.

It must not slow the bus down, whatever becomes of the screen. A thread takes and completes events as they come, and
keeps a bounded number of copies for who prints them; what there is no room for is counted instead.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from types import TracebackType

from eventbus_mp.client.bus import EventBus
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.events import Event, EventShadow

__all__ = ["Following"]

NAME = "eventbus-mp tail"
TAKEN_MAX = 1_000
KEPT_EVENTS_MAX = 10_000
KEPT_BYTES_MAX = 64 << 20


class Following:
    """The events whose topics match, while it is entered; the subscriber goes with the end.

    Args:
        bus: A handle that takes part in the bus.
        patterns: As of `EventBus.subscribe`.
    """

    def __init__(self, bus: EventBus, patterns: list[str]) -> None:
        self._bus = bus
        self._patterns = patterns
        self._kept: SimpleQueue[tuple[Event, int] | None] = SimpleQueue()
        self._error: ManagerLost | None = None
        # Each is written by one thread only; a number that is a moment old does no harm.
        self._put_bytes = self._got_bytes = 0
        self._missed = self._missed_taken = 0

    def __enter__(self) -> Following:
        self._inbox = self._bus.inbox(NAME, self._patterns, broadcast=True)
        self._thread = threading.Thread(target=self._follow, name="eventbus-mp tail", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.close()
        self._thread.join()

    def get(self, timeout_s: float) -> Event | None:
        """The next event; None if none came in time, or after `wake`.

        Raises:
            ManagerLost: The bus has ended.
        """
        try:
            kept = self._kept.get(timeout=timeout_s)
        except Empty:
            return None
        if kept is None and self._error is not None:
            raise self._error
        if kept is None:
            return None
        event, nbytes = kept
        self._got_bytes += nbytes
        return event

    def wake(self) -> None:
        """Have `get` return; a signal handler may call it."""
        self._kept.put(None)

    def is_idle(self) -> bool:
        """Whether nothing waits to be printed."""
        return self._kept.empty()

    def take_missed(self) -> int:
        """How many were not kept since the last time, because those before them were not printed yet."""
        missed = self._missed - self._missed_taken
        self._missed_taken += missed
        return missed

    def _follow(self) -> None:
        try:
            while True:
                shadows = self._inbox.get_many(TAKEN_MAX)
                for shadow in shadows:
                    self._keep(shadow)
                self._inbox.complete_many(shadows)
        except ManagerLost as error:
            self._error = error
            self._kept.put(None)
        except BusClosed:
            return  # The inbox was closed.

    def _keep(self, shadow: EventShadow) -> None:
        is_full = self._kept.qsize() >= KEPT_EVENTS_MAX or self._put_bytes - self._got_bytes >= KEPT_BYTES_MAX
        event = None if is_full else self._bus.fetch_event(shadow)
        if event is None:
            self._missed += 1
            return
        place = shadow._place
        nbytes = place.length if place is not None else 0
        self._put_bytes += nbytes
        self._kept.put((event.copy(), nbytes))
