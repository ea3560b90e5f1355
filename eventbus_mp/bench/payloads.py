"""What an event carries: a small dict, or an array that cannot be mistaken for another one.

An array's content is fixed before the clock runs: `SOURCES` arrays, each a pattern of its own, and event `n` carries
number `n % SOURCES`. Nobody writes to them again, so a peer may serialize one whenever it likes. Its first and last
element tell a consumer that the right bytes are there; the whole pattern is compared once in each consumer process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Data",
    "KIB",
    "MIB",
    "Maker",
    "Payload",
    "check_marks",
    "check_pattern",
    "last_mark",
    "make_pattern",
    "make_small",
]

Data = dict[str, Any]
Maker = Callable[[int, int], Data]

KIB, MIB = 1 << 10, 1 << 20
SOURCES = 4
STEP = 7
"""An element is its index times this, and the number of its source more."""
FREE_WORDS = 3
"""The first elements; a peer that fills memory in place keeps n and the time in two of them."""


@dataclass(frozen=True)
class Payload:
    """What the events of a run carry."""

    array_bytes: int = 0
    """0: the small dict."""

    @property
    def name(self) -> str:
        if not self.array_bytes:
            return ""
        return f"{self.array_bytes // MIB}MiB" if self.array_bytes >= MIB else f"{self.array_bytes // KIB}KiB"

    def maker(self) -> Maker:
        """Makes an event's data of its number and the time."""
        if not self.array_bytes:
            return make_small
        sources = [make_pattern(self.array_bytes, source) for source in range(SOURCES)]
        return lambda n, sent_ns: {"n": n, "sent_ns": sent_ns, "array": sources[n % SOURCES]}


def make_small(n: int, sent_ns: int) -> Data:
    """About 150 bytes, encoded with msgpack or pickle."""
    return {
        "n": n,
        "sent_ns": sent_ns,
        "customer": "Ada Lovelace",
        "email": "ada@example.org",
        "total": 129.5,
        "currency": "EUR",
        "items": ["book", "lamp", "chair"],
        "paid": True,
        "address": "12 Long Street, Springfield",
    }


def make_pattern(array_bytes: int, source: int) -> Any:
    import numpy

    return numpy.arange(array_bytes // 8, dtype=numpy.int64) * STEP + source


def last_mark(length: int, n: int) -> int:
    """The last element of an array of `length` elements that event `n` carries; the first one is `n % SOURCES`."""
    return (length - 1) * STEP + n % SOURCES


def check_marks(array: Any, n: int) -> None:
    """Raises RuntimeError when the array is not the one of event `n`; looks at its two ends only."""
    if array[0] != n % SOURCES or array[-1] != last_mark(len(array), n):
        raise RuntimeError(f"event {n} brought an array that begins with {array[0]} and ends with {array[-1]}")


def check_pattern(array: Any, n: int) -> None:
    """Raises RuntimeError when any element is not what was sent."""
    wanted = make_pattern(array.nbytes, n % SOURCES)
    if not (array[FREE_WORDS:] == wanted[FREE_WORDS:]).all():
        raise RuntimeError(f"event {n} brought an array of {array.nbytes} bytes with other elements than were sent")
