"""Checks of what users pass: each gives the value in the form that the bus takes, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_mp.errors import UsageError
from eventbus_mp.patterns import compile_pattern

__all__ = ["check_credit", "check_patterns", "check_retries", "check_timeout"]


def check_patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns as a list.

    Raises:
        InvalidPattern: One does not compile; the text names it.
    """
    if isinstance(patterns, str):
        raise UsageError(f"patterns must be a list of them, not the str {patterns!r}; write [{patterns!r}]")
    if not isinstance(patterns, Iterable):
        raise UsageError(f"patterns must be a list of regular expressions, not {patterns!r}")
    wanted = list(patterns)
    for pattern in wanted:
        compile_pattern(pattern)
    return wanted


def check_credit(credit: int | str) -> int:
    """The credit as it travels: 0 means automatic."""
    if credit == "auto":
        return 0
    if type(credit) is not int or credit < 1:
        raise UsageError(f"credit={credit!r}: give a number of shadows, 1 or more, or 'auto'")
    return credit


def check_retries(retries: int) -> int:
    """How often a handler that raised is called again."""
    if type(retries) is not int or retries < 0:
        raise UsageError(f"retries={retries!r}: give a whole number, 0 or more")
    return retries


def check_timeout(timeout_s: float | None) -> None:
    """Raise `UsageError` for what is no time to wait; None is for ever."""
    is_time = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool) and timeout_s == timeout_s
    if timeout_s is not None and not is_time:  # nan is not even itself
        raise UsageError(f"timeout_s={timeout_s!r}: give seconds, or None to wait for ever")
