"""Event ids: base62 of time + node + random, as the original's `Base62.unique_id`.

An id sorts by the time it was made (to the microsecond), and two processes never make the same one: the node part
comes from the machine and the process, the last part from the operating system's random numbers and a counter.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid

__all__ = ["base62", "unique_id"]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NODE_SPACE = 62**6
_RANDOM_SPACE = 62**4


def base62(number: int) -> str:
    """`number`, which is not negative, in digits `0-9A-Za-z`."""
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits)) or "0"


class _Generator:
    """The state behind `unique_id`, made anew in a forked child."""

    def __init__(self) -> None:
        node = hash((uuid.getnode(), os.getpid(), os.urandom(8))) % _NODE_SPACE
        self._node = base62(node).rjust(6, "0")
        self._serial = itertools.count(int.from_bytes(os.urandom(4), "little"))

    def __call__(self) -> str:
        now = base62(time.time_ns() // 1_000)
        # The counter makes ids of one process differ within a microsecond; its random start does so across forks.
        return now + self._node + base62(next(self._serial) % _RANDOM_SPACE).rjust(4, "0")


_generator = _Generator()


def unique_id() -> str:
    """A new id of some 19 letters and digits; safe to call from any thread and after a fork."""
    return _generator()


def _after_fork() -> None:
    global _generator
    _generator = _Generator()


os.register_at_fork(after_in_child=_after_fork)
