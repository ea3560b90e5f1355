"""Checks of arguments: each returns the value in the form that the bus takes, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus_mp.errors import UsageError
from eventbus_mp.patterns import compile_pattern

__all__ = ["check_credit", "check_name", "check_patterns", "check_retries", "check_timeout"]


def check_patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns as a list.

    Raises:
        InvalidPattern: One of them does not compile; the text names it.
        UsageError: They are not a list of patterns.
    """
    if isinstance(patterns, str):
        raise UsageError(f"patterns must be a list of them, not the str {patterns!r}; write [{patterns!r}]")
    if not isinstance(patterns, Iterable):
        raise UsageError(f"patterns must be a list of regular expressions, not {patterns!r}")
    wanted = list(patterns)
    for pattern in wanted:
        compile_pattern(pattern)
    return wanted


def check_name(name: object) -> str:
    """The name of a subscriber.

    Raises:
        UsageError: It is not a str, or is empty.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"a subscriber's name is a text of one character or more, not {name!r}")
    return name


def check_credit(credit: int | str) -> int:
    """The credit as it travels: 0 means automatic.

    Raises:
        UsageError: It is neither "auto" nor an int of 1 or more.
    """
    if credit == "auto":
        return 0
    if type(credit) is not int or credit < 1:
        raise UsageError(f"credit={credit!r}: give a number of shadows, 1 or more, or 'auto'")
    return credit


def check_retries(retries: int) -> int:
    """How often a handler that raised is called again.

    Raises:
        UsageError: It is not an int of 0 or more.
    """
    if type(retries) is not int or retries < 0:
        raise UsageError(f"retries={retries!r}: give a whole number, 0 or more")
    return retries


def check_timeout(timeout_s: float | None) -> None:
    """Check a time to wait, in seconds; None is for ever.

    Raises:
        UsageError: It is not a number.
    """
    is_time = isinstance(timeout_s, (int, float)) and not isinstance(timeout_s, bool) and timeout_s == timeout_s
    if timeout_s is not None and not is_time:  # nan is not equal to itself
        raise UsageError(f"timeout_s={timeout_s!r}: give seconds, or None to wait for ever")
