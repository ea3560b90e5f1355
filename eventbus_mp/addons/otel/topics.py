"""Which topics are traced and measured."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["NAMES_MAX", "Traced"]

NAMES_MAX = 1_000
"""For how many topics, or attributes, what was made for one is kept ready for the next time."""


class Traced:
    """Says of a topic whether it is; a pattern is looked at once.

    Args:
        exclude: Patterns of those that are not.
    """

    def __init__(self, exclude: Iterable[str]) -> None:
        self._exclude = [re.compile(pattern) for pattern in exclude]
        self._known: dict[str, bool] = {}

    def __call__(self, topic: str) -> bool:
        found = self._known.get(topic)
        if found is None:
            if len(self._known) >= NAMES_MAX:
                self._known.clear()
            found = self._known[topic] = not any(pattern.match(topic) for pattern in self._exclude)
        return found
