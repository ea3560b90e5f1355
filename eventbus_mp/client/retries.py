"""When a handler that raised is called again: exponential back-off with jitter."""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass

from eventbus_mp.client.validation import check_delay, check_retries
from eventbus_mp.geometry import TRACEBACK_LENGTH_MAX

__all__ = ["RETRY_DELAY_MAX_S", "Retries", "failure_of", "text_of_error"]

RETRY_DELAY_MAX_S = 60.0


@dataclass(frozen=True)
class Retries:
    """How often, and after how long.

    Raises:
        UsageError: One of them is not valid.
    """

    count: int = 0
    delay_s: float = 0.0
    """Before the first retry; each further one waits twice as long. 0: the handler is called again at once."""
    delay_max_s: float = RETRY_DELAY_MAX_S

    def __post_init__(self) -> None:
        # It is frozen, but its fields take the form that the bus uses.
        object.__setattr__(self, "count", check_retries(self.count))
        object.__setattr__(self, "delay_s", check_delay("retry_delay_s", self.delay_s))
        object.__setattr__(self, "delay_max_s", check_delay("retry_delay_max_s", self.delay_max_s))

    def delay_ns(self, attempt: int) -> int:
        """How long to wait after this attempt, 1 for the first: half of the back-off, and up to half of it by chance,
        so that what failed together is not tried again together."""
        back_off_s = min(self.delay_max_s, self.delay_s * 2.0 ** min(attempt - 1, 64))
        return int(back_off_s * random.uniform(0.5, 1.0) * 1e9)


def text_of_error(error: BaseException) -> str:
    """The text of an exception; its `__str__` is the user's code as well, and may raise."""
    try:
        return str(error)
    except BaseException as cause:
        return f"(its text cannot be had: {type(cause).__name__})"


def failure_of(error: BaseException, tries: int) -> tuple[int, str, str, str]:
    """(tries, name of the class, text, end of the traceback), as they travel."""
    name, text = type(error).__name__, text_of_error(error)
    try:
        tail = "".join(traceback.format_exception(error))[-TRACEBACK_LENGTH_MAX:]
    except Exception as cause:
        tail = f"(its traceback cannot be had: {type(cause).__name__})"
    return tries, name, _sendable(text), _sendable(tail)


def _sendable(text: str) -> str:
    # Lone surrogates, as in the names of files that are not UTF-8, cannot travel.
    return text[:TRACEBACK_LENGTH_MAX].encode(errors="backslashreplace").decode()
