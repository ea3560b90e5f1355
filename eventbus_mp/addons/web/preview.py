"""Values of users as values that JSON has, and that every reader of JSON understands, of a bounded size."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["PREVIEW_BYTES_MAX", "id_fields", "json_id", "preview"]

PREVIEW_BYTES_MAX = 16 << 10
DEPTH_MAX = 8
TEXT_MAX = 4_096
EXACT_INT_MAX = 1 << 53
"""Readers that know one kind of number, as browsers do, lose digits beyond it."""
PIECE_BYTES = 16
"""About what a value costs in JSON beside its text: quotes, commas, spaces."""


def id_fields(event_id: str | int | None) -> dict[str, Any]:
    """An event's id as two fields: `7` and `"7"` are two ids, and a browser has no integers of 64 bits."""
    return {"id": json_id(event_id), "int": isinstance(event_id, int)}


def json_id(event_id: str | int | None) -> str | None:
    """The id as a text that any encoding has; None: it could not be read."""
    return None if event_id is None else str(event_id).encode("utf-8", "backslashreplace").decode()


def preview(value: Any) -> tuple[Any, bool]:
    """The value for JSON, and whether something is left out.

    What JSON does not have, or not all readers of it, is an object with the key `$type`: an array has its dtype and
    shape, bytes their beginning, an integer beyond 2^53 and a float that is not a number their text, another object its
    `repr`. It has about 16 KiB of JSON at most, and a depth of 8.
    """
    budget = _Budget(PREVIEW_BYTES_MAX)
    shown = _shown(value, budget, DEPTH_MAX)
    return shown, budget.is_cut


class _Budget:
    """How much JSON may still be made."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True

    def text(self, value: str) -> str:
        """The text, or its beginning."""
        most = max(0, min(TEXT_MAX, self.left))
        short = value[:most].encode("utf-8", "backslashreplace").decode()
        # As JSON has it with nothing but ASCII: a letter may become six, and one beyond 2^16 twelve.
        while short and _json_length(short) > most:
            short = short[: len(short) // 2]
        self.left -= _json_length(short) + PIECE_BYTES
        if len(short) < len(value):
            self.cut()
            short += "\u2026"
        return short


def _json_length(text: str) -> int:
    return sum(1 if " " <= char <= "~" else 6 if char <= "\uffff" else 12 for char in text)


def _shown(value: Any, budget: _Budget, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        budget.left -= PIECE_BYTES
        return value
    if kind is str:
        return budget.text(value)
    if kind is int:
        budget.left -= PIECE_BYTES
        return value if abs(value) <= EXACT_INT_MAX else {"$type": "int", "text": str(value)}
    if kind is float:
        budget.left -= PIECE_BYTES
        return value if math.isfinite(value) else {"$type": "float", "text": repr(value)}
    if kind in (list, tuple, set, frozenset, dict):
        return _collection(value, budget, depth)
    if kind in (bytes, bytearray, memoryview):
        view = memoryview(value).cast("B")
        return {"$type": kind.__name__, "bytes": len(view), "hex": budget.text(bytes(view[:64]).hex())}
    return _other(value, budget)


def _collection(value: Any, budget: _Budget, depth: int) -> Any:
    kind = type(value)
    if depth == 0:
        budget.cut()
        return {"$type": kind.__name__, "length": len(value)}
    budget.left -= PIECE_BYTES
    if kind is not dict:
        items = _items(value, budget, depth)
        return items if kind is list else {"$type": kind.__name__, "items": items}
    if all(type(key) is str for key in value) and "$type" not in value:
        shown: dict[str, Any] = {}
        for key, item in value.items():
            if budget.left <= 0:
                budget.cut()
                break
            shown[budget.text(key)] = _shown(item, budget, depth - 1)
        return shown
    return {"$type": "dict", "items": _items(([key, item] for key, item in value.items()), budget, depth)}


def _items(values: Any, budget: _Budget, depth: int) -> list[Any]:
    shown = []
    for item in values:
        if budget.left <= 0:
            budget.cut()
            break
        shown.append(_shown(item, budget, depth - 1))
    return shown


def _other(value: Any, budget: _Budget) -> dict[str, Any]:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return {"$type": name, "dtype": budget.text(str(dtype)), "shape": [int(length) for length in shape]}
    try:
        text = repr(value)
    except Exception as error:  # The type is the user's, and so is what it does.
        text = f"its repr raises {type(error).__name__}"
    return {"$type": name, "repr": budget.text(text)}
