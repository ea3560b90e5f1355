"""Any data as a small tree of what JSON has. It is bounded, hides what is secret, and runs no code of the data's."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Set as AbstractSet
from typing import Any

__all__ = ["REDACTED", "error_text", "plain"]

REDACTED = "[redacted]"
MORE = "..."
DEPTH_MAX = 8
INT_BITS_MAX = 512
"""A longer int is not written out: that takes a time which grows with its square, and Python refuses it at last."""

TEXT_MODULES = frozenset(
    (
        "datetime",
        "decimal",
        "fractions",
        "ipaddress",
        "pathlib",
        "uuid",
        "zoneinfo",
    )
)
"""Whose values have a short text of their own."""


def error_text(error: BaseException) -> str:
    """The error's class and its text, which is the program's own code to make."""
    try:
        text = str(error)
    except Exception as inner:
        text = f"its text cannot be made: {type(inner).__name__}"
    return f"{type(error).__name__}: {text}"


class _Budget:
    """How many characters may still come, about."""

    def __init__(self, characters: int, redact: AbstractSet[str]) -> None:
        self.left = characters
        self.redact = redact


def plain(value: Any, characters: int, redact: AbstractSet[str] = frozenset()) -> Any:
    """The value in terms of dict, list, str, int, float, bool and None.

    Args:
        value: Anything that an event's data may be.
        characters: How many the result has as JSON, about; what does not fit is "...".
        redact: The keys and the names of fields, in lower case, whose values are not shown.
    """
    return _plain(value, _Budget(characters, redact), DEPTH_MAX)


def _plain(value: Any, budget: _Budget, depth: int) -> Any:
    if budget.left <= 0:
        return MORE
    kind = type(value)
    if value is None or kind is bool:
        budget.left -= 5
        return value
    if kind is str:
        return _text(value, budget)
    if kind is int:
        bits = value.bit_length()
        budget.left -= bits // 3 + 2
        return value if bits <= INT_BITS_MAX else f"<int of {bits:,} bits>"
    if kind is float:
        budget.left -= 20
        return value if math.isfinite(value) else str(value)
    if kind in (list, tuple, set, frozenset, dict) or (dataclasses.is_dataclass(value) and kind is not type):
        return _nested(value, budget, depth - 1) if depth else MORE
    return _text(_named(value), budget)


def _text(text: str, budget: _Budget) -> str:
    shown = text if len(text) <= budget.left else text[: budget.left] + MORE
    budget.left -= len(shown) + 2
    return shown


def _nested(value: Any, budget: _Budget, depth: int) -> Any:
    if type(value) is dict:
        return _pairs(value.items(), len(value), budget, depth)
    if not isinstance(value, (list, tuple, set, frozenset)):
        fields = [field.name for field in dataclasses.fields(value)]
        pairs = ((name, getattr(value, name, MORE)) for name in fields)
        return {"$type": type(value).__name__, **_pairs(pairs, len(fields), budget, depth)}
    items: list[Any] = []
    for item in value:
        if budget.left <= 0:
            items.append(f"{MORE} {len(value) - len(items):,} more")
            break
        items.append(_plain(item, budget, depth))
    return items


def _pairs(pairs: Any, count: int, budget: _Budget, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in pairs:
        if budget.left <= 0:
            found[MORE] = f"{count - len(found):,} more"
            break
        shown = _plain(key, budget, 1)
        name = shown if type(shown) is str else str(shown)
        is_secret = type(key) is str and key.lower() in budget.redact
        found[name] = _text(REDACTED, budget) if is_secret else _plain(item, budget, depth)
    return found


def _named(value: Any) -> str:
    """A value that JSON does not have, by what it is."""
    kind = type(value)
    if kind in (bytes, bytearray, memoryview):
        return f"<{kind.__name__} of {memoryview(value).nbytes:,} bytes>"
    if isinstance(value, enum.Enum):
        return f"{kind.__name__}.{value.name}"
    if kind.__module__ in TEXT_MODULES or kind is complex:
        return str(value)
    if kind.__module__ == "numpy":
        return f"<{kind.__name__} {value.dtype} {list(value.shape)}>"
    return f"<{kind.__module__}.{kind.__qualname__}>"
