"""Topic patterns: regular expressions that match from the beginning of a topic's name."""

from __future__ import annotations

import re

from eventbus_mp.errors import InvalidPattern

__all__ = ["compile_pattern"]


def compile_pattern(pattern: object) -> re.Pattern[str]:
    """Compile a topic pattern; its `match` says whether it matches a topic.

    Raises:
        InvalidPattern: It is not a str, or not a regular expression; the text names the pattern and the place.
    """
    if not isinstance(pattern, str):
        raise InvalidPattern(f"pattern {pattern!r} is a {type(pattern).__name__}, not a str")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as cause:
        raise InvalidPattern(f"pattern {pattern!r} does not compile: {cause}") from cause
