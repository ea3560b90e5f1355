"""A clock that a test holds."""

from __future__ import annotations

__all__ = ["ManualClock"]

WALL_CLOCK_AT_START_NS = 1_700_000_000 * 10**9


class ManualClock:
    """Time stands still until somebody moves it."""

    def __init__(self) -> None:
        self._now_ns = 10**9

    def monotonic_ns(self) -> int:
        """The time that deadlines count by."""
        return self._now_ns

    def time_ns(self) -> int:
        """The wall-clock time; it goes as the monotonic time does."""
        return WALL_CLOCK_AT_START_NS + self._now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.advance_to(self._now_ns + int(seconds * 1e9))

    def advance_to(self, now_ns: int) -> None:
        """Let time pass until `now_ns`; it never goes back."""
        self._now_ns = max(self._now_ns, now_ns)
