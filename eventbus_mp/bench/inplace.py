"""Filling memory in place: what producers do that are lent shared memory, and their consumers.

There is nothing beside the array, so its second and third element carry n and the time. The first arrays, as many as
the warm-up of a run has at least, are written whole, so that each consumer can compare one with the pattern.
"""

from __future__ import annotations

from typing import Any

from eventbus_mp.bench.payloads import Data

__all__ = ["fill", "read"]

WHOLE = 4


def fill(array: Any, data: Data, filled: int) -> int:
    """Make `array` that of the event; `filled`: how many were before. How many are now."""
    source = data["array"]
    if filled < WHOLE:
        array[:] = source
    array[0], array[1], array[2], array[-1] = source[0], data["n"], data["sent_ns"], source[-1]
    return filled + 1


def read(array: Any) -> Data:
    """The event's data."""
    return {"n": int(array[1]), "sent_ns": int(array[2]), "array": array}
