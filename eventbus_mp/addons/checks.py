"""Checks of arguments that several addons have. Each returns the value, or says what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from eventbus_mp import BusConfig, EventBus, InvalidPattern, UsageError

__all__ = [
    "checked_bus",
    "checked_config",
    "checked_count",
    "checked_number",
    "checked_text",
    "checked_texts",
    "compiled",
]

INT64 = range(-(1 << 63), 1 << 63)


def checked_bus(what: str, bus: Any) -> EventBus:
    """A handle of a bus, with threads.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(bus, EventBus):
        return bus
    raise UsageError(f"{what}={bus!r:.80} is a {type(bus).__name__}; give an EventBus")


def checked_config(config: Any) -> BusConfig:
    """Settings.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(config, BusConfig):
        return config
    raise UsageError(f"config={config!r:.80} is a {type(config).__name__}; give a BusConfig")


def checked_text(what: str, value: Any, least: int = 1) -> str:
    """A text of so many characters or more, which can be written to a file.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(value, str) or len(value) < least:
        raise UsageError(f"{what}={value!r:.80} is not a text" + (" of one character or more" if least else ""))
    try:
        value.encode()
    except UnicodeEncodeError as cause:
        raise UsageError(f"{what}={value!r:.80} is not valid unicode text") from cause
    return value


def checked_texts(what: str, values: Any) -> list[str]:
    """A list of texts.

    Raises:
        UsageError: It is something else, for example one text.
    """
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        found = list(values)
        if all(isinstance(value, str) for value in found):
            return found
    raise UsageError(f"{what}={values!r:.80}: give a list of texts; [text] for one")


def checked_number(what: str, value: Any, most: float) -> float:
    """A number above 0.

    Raises:
        UsageError: It is something else, or more than `most`.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most and math.isfinite(value):
        return float(value)
    raise UsageError(f"{what}={value!r:.80} is not a number above 0, {most:g} at most")


def checked_count(what: str, value: Any, least: int = INT64[0]) -> int:
    """A whole number of 64 bits.

    Raises:
        UsageError: It is something else, or below `least`.
    """
    if type(value) is int and value in INT64 and value >= least:
        return value
    bound = f", {least} or more" if least != INT64[0] else ""
    raise UsageError(f"{what}={value!r:.80} is not a whole number of 64 bits{bound}")


def compiled(pattern: Any) -> re.Pattern[str]:
    """A pattern of topics; its `match` says whether it matches one from the beginning.

    Raises:
        InvalidPattern: It is not a text, or not a regular expression.
    """
    if not isinstance(pattern, str):
        raise InvalidPattern(f"pattern {pattern!r:.80} is a {type(pattern).__name__}, not a text")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as cause:
        raise InvalidPattern(f"pattern {pattern!r:.80} is not a regular expression: {cause}") from cause
