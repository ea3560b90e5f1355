"""The pace of a replay: as fast as it goes, as recorded, or so many events a second."""

from __future__ import annotations

from threading import Event as Flag
from time import monotonic
from typing import Protocol

from eventbus_mp.addons.checks import checked_number

__all__ = ["AsFastAsItGoes", "AsRecorded", "Pace", "Steady"]

NS = 1_000_000_000
FASTEST = 1e12


class Pace(Protocol):
    """When each event of a replay is due."""

    def wait(self, recorded_ns: int, stop: Flag) -> bool:
        """Block until the next event, which was recorded then, is due; False: `stop` was set first."""


class AsFastAsItGoes:
    """Without any wait."""

    def wait(self, recorded_ns: int, stop: Flag) -> bool:
        """See `Pace`."""
        return not stop.is_set()


class _Timed:
    """The first event is due at once, and the others so many seconds after it."""

    def __init__(self) -> None:
        self._began_s = 0.0

    def _wait(self, due_s: float, stop: Flag) -> bool:
        now_s = monotonic()
        self._began_s = self._began_s or now_s
        left_s = self._began_s + due_s - now_s
        return not (stop.wait(left_s) if left_s > 0 else stop.is_set())


class AsRecorded(_Timed):
    """As far apart as they were recorded, divided by `speed`."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = checked_number("speed", speed, FASTEST)
        self._first_ns: int | None = None

    def wait(self, recorded_ns: int, stop: Flag) -> bool:
        """See `Pace`."""
        if self._first_ns is None:
            self._first_ns = recorded_ns
        return self._wait((recorded_ns - self._first_ns) / NS / self._speed, stop)


class Steady(_Timed):
    """`rate` events a second."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = checked_number("rate", rate, FASTEST)
        self._count = 0

    def wait(self, recorded_ns: int, stop: Flag) -> bool:
        """See `Pace`."""
        due_s = self._count / self._rate
        self._count += 1
        return self._wait(due_s, stop)
