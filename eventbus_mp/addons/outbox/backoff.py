"""How long to wait before the next try when the database or the bus is away, and what to log meanwhile."""

from __future__ import annotations

import logging
import random
import time

__all__ = ["Backoff"]

log = logging.getLogger("eventbus_mp.outbox")

PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 5.0
SAY_S = 60.0


class Backoff:
    """One line when something goes away, one a minute while it is, and one when it is back."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._said_s = 0.0
        self._pause_s = PAUSE_FIRST_S

    @property
    def is_away(self) -> bool:
        return self._began_s > 0

    def note(self, error: Exception) -> None:
        """It failed."""
        now_s = time.monotonic()
        if not self._began_s:
            self._began_s = now_s
            log.error("the outbox waits, and tries again: %s", error)
        elif now_s - self._said_s >= SAY_S:
            log.error("the outbox has waited for %.0f s: %s", now_s - self._began_s, error)
        else:
            return
        self._said_s = now_s

    def pause_s(self) -> float:
        """How long to wait now: twice as long as before, with chance in it."""
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return pause_s

    def end(self) -> None:
        """It succeeded."""
        if self._began_s:
            log.warning("the outbox goes on after %.1f s", time.monotonic() - self._began_s)
            self._began_s = 0.0
        self._pause_s = PAUSE_FIRST_S
