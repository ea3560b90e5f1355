"""What is known of deliveries that went wrong, and why deliveries were skipped."""

from __future__ import annotations

__all__ = ["NO_REASON", "OTHER_REASONS", "PROCESS_CRASHED", "REASONS_MAX", "Failure", "SkipReasons"]

PROCESS_CRASHED = "its process crashed"
"""The text of a failure of which no more is known."""
REASONS_MAX = 64
"""How many reasons of a subscriber are counted each for itself."""
NO_REASON, OTHER_REASONS = "not given", "other"


class Failure:
    """What is known of a delivery that failed, or whose process crashed, and that is not settled."""

    __slots__ = ("attempts", "error", "first_ns", "last_ns", "text", "traceback", "tries")

    def __init__(self, now_ns: int) -> None:
        self.first_ns = self.last_ns = now_ns
        self.attempts = 0
        """How often it was tried and failed; crashes are counted apart (`SubscriberState.attempts`)."""
        self.tries = 0
        """How often its process says that it has tried, until the outcome comes."""
        self.error = self.text = self.traceback = ""

    def count(self, now_ns: int) -> None:
        """Another attempt has failed."""
        self.attempts += self.tries or 1
        self.tries = 0
        self.last_ns = now_ns


class SkipReasons(dict[str, int]):
    """Reason -> how many deliveries were skipped for it. After `REASONS_MAX` reasons, the rest is counted together."""

    def count(self, number: int, reason: str) -> None:
        """This many deliveries were skipped for this reason; "": none was given."""
        reason = reason or NO_REASON
        if reason not in self and len(self) >= REASONS_MAX:
            reason = OTHER_REASONS
        self[reason] = self.get(reason, 0) + number
