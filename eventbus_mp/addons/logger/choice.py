"""Which events get a line, and of which level: by the patterns of topics, by a sample, and by a rate."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from zlib import crc32

from eventbus_mp import InvalidPattern, UsageError
from eventbus_mp.addons.checks import checked_texts
from eventbus_mp.addons.checks import compiled as compiled_one

__all__ = ["Choice", "checked_level", "compiled"]

T = TypeVar("T")
ByPattern = tuple[tuple["re.Pattern[str]", T], ...]


def compiled(what: str, patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """The patterns, which match the beginning of a topic.

    Raises:
        UsageError: One of them is not a regular expression.
    """
    try:
        return tuple(map(compiled_one, checked_texts(what, patterns)))
    except InvalidPattern as cause:
        raise InvalidPattern(f"{what}: {cause}") from cause


def checked_level(what: str, level: Any) -> int:
    """The number of a level of `logging`, given by number or by name.

    Raises:
        UsageError: There is no such level.
    """
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if type(number) is not int or number < 1:
        raise UsageError(f"{what}={level!r} is not a level of logging: give its name, such as 'info', or its number")
    return number


class Choice:
    """What is asked once for each event. Not for several threads.

    Args:
        level: Of the lines of topics that no pattern of `levels` matches.
        levels: Pattern -> level; the first that matches counts.
        sample: The share of the events that get a line, from 0 to 1; or pattern -> share. It is chosen by the id: the
            same events in each process, and each time.
        per_second: How many lines a topic gets in a second at most; or pattern -> number. None: no limit.

    Raises:
        UsageError: One of them is not of this kind.
    """

    def __init__(self, level: Any, levels: Mapping[str, Any] | None, sample: Any, per_second: Any) -> None:
        self._level = checked_level("level", level)
        self._levels = _by_pattern("levels", levels or {}, lambda value: checked_level("levels", value))
        self._sample = _by_pattern("sample", _for_all(sample), _checked_share)
        self._per_second = _by_pattern("per_second", _for_all(per_second), _checked_rate)
        self._of_topic: dict[str, tuple[int, float, int | None]] = {}
        self._second: dict[str, tuple[int, int]] = {}
        """Topic -> the second of its latest line, and how many it had in that."""
        self._omitted: dict[str, int] = {}

    def level(self, topic: str) -> int:
        """The level of this topic's lines."""
        return self._settings(topic)[0]

    def admits(self, topic: str, event_id: str | int) -> bool:
        """Whether the event gets a line. Those that get none are counted."""
        _, share, rate = self._settings(topic)
        admitted = share >= 1 or crc32(str(event_id).encode(errors="replace")) < share * (1 << 32)
        if admitted and rate is not None:
            now = int(time.monotonic())
            second, lines = self._second.get(topic, (now, 0))
            lines = lines if second == now else 0
            admitted = lines < rate
            self._second[topic] = (now, lines + admitted)
        if not admitted:
            self._omitted[topic] = self._omitted.get(topic, 0) + 1
        return admitted

    def take_omitted(self, topic: str) -> int:
        """How many events of the topic got no line since the last time."""
        return self._omitted.pop(topic, 0)

    def _settings(self, topic: str) -> tuple[int, float, int | None]:
        found = self._of_topic.get(topic)
        if found is None:
            found = (
                _first(self._levels, topic, self._level),
                _first(self._sample, topic, 1.0),
                _first(self._per_second, topic, None),
            )
            self._of_topic[topic] = found
        return found


def _for_all(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    return {"": value} if value is not None else {}


def _by_pattern(what: str, values: Mapping[str, Any], check: Callable[[Any], T]) -> ByPattern[T]:
    return tuple(zip(compiled(what, values), map(check, values.values()), strict=True))


def _first(values: ByPattern[T], topic: str, default: T) -> T:
    return next((value for pattern, value in values if pattern.match(topic)), default)


def _checked_share(value: Any) -> float:
    if isinstance(value, (int, float)) and 0 <= value <= 1:
        return float(value)
    raise UsageError(f"sample={value!r} is not a share from 0 to 1")


def _checked_rate(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    raise UsageError(f"per_second={value!r} is not a whole number, 0 or more")
