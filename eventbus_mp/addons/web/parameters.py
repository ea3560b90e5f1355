"""Parameters of questions, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping

from eventbus_mp import UsageError

__all__ = ["NotFound", "event_of", "given", "id_of", "number_of", "page_of", "seconds_ns"]

LIMIT_MAX = 500
INT_BOUND = 1 << 63


class NotFound(Exception):
    """There is no such topic, event or path."""

    def __init__(self, what: str) -> None:
        super().__init__(f"no such {what}")
        self.what = what


def given(query: Mapping[str, str], name: str) -> str:
    """A parameter that has to be there."""
    if name not in query:
        raise UsageError(f"give the parameter {name}")
    return query[name]


def event_of(query: Mapping[str, str]) -> tuple[str, str | int]:
    """(topic, id) of the event that is asked for."""
    return given(query, "topic"), id_of(given(query, "id"), query)


def id_of(text: str, query: Mapping[str, str]) -> str | int:
    """An id: a text, or with `int=1` an integer."""
    if query.get("int", "0") not in ("1", "true"):
        return text
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and -INT_BOUND <= int(text) < INT_BOUND):
        raise UsageError(f"id={text!r:.60} is not an integer of 64 bits")
    return int(text)


def number_of(query: Mapping[str, str], name: str, default: int, most: int = INT_BOUND - 1) -> int:
    """A whole number, not negative."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise UsageError(f"{name}={text!r:.40}: give a whole number, {most} at most")
    return int(text)


def page_of(query: Mapping[str, str]) -> tuple[int, int]:
    """(limit, after) of a page of a list."""
    return max(number_of(query, "limit", 100, LIMIT_MAX), 1), number_of(query, "after", 0)


def seconds_ns(query: Mapping[str, str], name: str) -> int | None:
    """A time in seconds since 1970, as nanoseconds; None: it is not given."""
    if name not in query:
        return None
    try:
        return max(-INT_BOUND, min(int(float(query[name]) * 1e9), INT_BOUND - 1))
    except (ValueError, OverflowError) as cause:
        raise UsageError(f"{name}={query[name]!r:.40}: give seconds since 1970") from cause
