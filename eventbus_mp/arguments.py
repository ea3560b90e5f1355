"""What users pass, in Python's own types: a member of a string Enum is a text, a number of numpy's is a number."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

__all__ = ["as_int", "as_list", "as_number", "as_text"]


def as_text(value: object) -> str | None:
    """The value as a str and of no subclass; None if it is not a text."""
    return str.__str__(value) if isinstance(value, str) else None


def as_list(values: object) -> list[Any] | None:
    """The values as a list; None if they cannot be iterated over, or are one text or bytes."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return None
    try:
        iterator = iter(values)
    except TypeError:  # An array without an axis.
        return None
    return list(iterator)


def as_int(value: object) -> int | None:
    """The value as an int; None if it is not a whole number. A bool is none."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:  # A TypeError, or what the user's `__index__` raises.
        return None


def as_number(value: object) -> int | float | None:
    """The value as an int or a float; None if it is neither. A bool is neither."""
    if type(value) is float:
        return value
    whole = as_int(value)
    if whole is not None:
        return whole
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
