"""A clock that a test holds."""

from __future__ import annotations

__all__ = ["ManualClock"]

START_NS = 10**9
WALL_CLOCK_AT_START_NS = 1_700_000_000 * 10**9


class ManualClock:
    """Time stands still until somebody moves it.

    Args:
        wall_ns: The wall-clock time at the beginning.
    """

    def __init__(self, wall_ns: int = WALL_CLOCK_AT_START_NS) -> None:
        self._now_ns = START_NS
        self._wall_ns = wall_ns - START_NS

    def monotonic_ns(self) -> int:
        """The time that deadlines count by."""
        return self._now_ns

    def time_ns(self) -> int:
        """The wall-clock time; it goes as the monotonic time does."""
        return self._wall_ns + self._now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.advance_to(self._now_ns + int(seconds * 1e9))

    def advance_to(self, now_ns: int) -> None:
        """Let time pass until `now_ns`; it never goes back."""
        self._now_ns = max(self._now_ns, now_ns)
