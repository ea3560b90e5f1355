"""What is wrong with data that cannot travel, and where: the error's text. It may take its time."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

__all__ = ["explain", "shown"]

DEEP_PATH_LEVELS = 16
"""Of data that is nested too deeply an error names the path to this level."""

Failure = Callable[[Any], "Exception | None"]
"""The error of encoding a value alone; None if it encodes."""


def explain(value: Any, path: str, cause: Exception, failure_of: Failure, parts_of: Callable[[Any], list[Any]]) -> str:
    """The path to the part of `value` that cannot travel, and what is wrong with it.

    Args:
        value: What cannot travel as a whole.
        path: Where it is.
        cause: The error of encoding it.
        failure_of: Encodes a part.
        parts_of: What is directly inside a value, but for a dict's keys.
    """
    path, culprit = _find(value, path, failure_of, parts_of)
    failure = failure_of(culprit) or cause
    if _is_of_depth(failure):
        return f"{path}: nested too deeply, or within itself"
    if isinstance(failure, UnicodeEncodeError):
        return f"{path}: text that is not valid unicode: {shown(culprit, 60)}"
    if isinstance(failure, TypeError):  # Its text is ours.
        return f"{path}: {failure}"
    return f"{path}: {type(failure).__name__}: {failure}"


def _find(value: Any, path: str, failure_of: Failure, parts_of: Callable[[Any], list[Any]]) -> tuple[str, Any]:
    """The path to the first part of `value` that does not encode, and that part.

    A loop, not a recursion: the data may be nested more deeply than Python's own calls. It ends at a value that is
    inside itself, and after some levels of data whose only fault is its depth, where a longer path says no more.
    """
    # The values are kept, because their ids are theirs only as long as they live.
    above: dict[int, Any] = {}
    while id(value) not in above:
        above[id(value)] = value
        failures = ((name, part, failure_of(part)) for name, part in _named_parts(value, path, parts_of))
        name, part, failure = next((found for found in failures if found[2] is not None), ("", None, None))
        if failure is None or (_is_of_depth(failure) and len(above) > DEEP_PATH_LEVELS):
            break
        path, value = name, part
    return path, value


def _is_of_depth(failure: Exception) -> bool:
    """Whether it is the error of data that is nested too deeply, which is a ValueError when msgpack finds it."""
    return isinstance(failure, RecursionError) or "recursion" in str(failure)


def _named_parts(value: Any, path: str, parts_of: Callable[[Any], list[Any]]) -> list[tuple[str, Any]]:
    """(path, part) of everything directly inside `value`."""
    kind = type(value)
    if kind is dict:
        entries = [(shown(key), key, part) for key, part in value.copy().items()]
        keys = [(f"{path} (key {name})", key) for name, key, _ in entries]
        return keys + [(f"{path}[{name}]", part) for name, _, part in entries]
    try:
        parts = parts_of(value)
    except Exception:  # Of a registered `encode`, most likely. So there are no parts to look at.
        return []
    if kind in (list, tuple, set, frozenset):
        return [(f"{path}[{index}]", part) for index, part in enumerate(parts)]
    if kind in (datetime.datetime, datetime.time):
        return [(f"{path}.tzinfo", value.tzinfo)] if value.tzinfo is not None else []
    return [(path, part) for part in parts]


def shown(value: object, length: int = 40) -> str:
    """The value as text, whatever its class does."""
    try:
        return f"{value!r:.{length}}"
    except Exception:
        return f"<{type.__dict__['__name__'].__get__(type(value))}>"
