"""Event ids: base62 of time, node and serial number.

Ids sort by the time at which they were made, to the microsecond. Two processes never make the same one: the node part
comes from the machine, the process and the operating system's random numbers, and the serial number begins at random.
"""

from __future__ import annotations

import itertools
import os
import time
import uuid

from eventbus_mp.lifecycle import ForkStage, after_fork_in_child

__all__ = ["base62", "unique_id"]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NODE_SPACE = 62**6
_RANDOM_SPACE = 62**4


def base62(number: int) -> str:
    """A number that is 0 or more, in the digits `0-9A-Za-z`."""
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits)) or "0"


class _Generator:
    """The state behind `unique_id`; a forked child makes a new one."""

    def __init__(self) -> None:
        node = hash((uuid.getnode(), os.getpid(), os.urandom(8))) % _NODE_SPACE
        self._node = base62(node).rjust(6, "0")
        self._serial = itertools.count(int.from_bytes(os.urandom(4), "little"))

    def __call__(self) -> str:
        now = base62(time.time_ns() // 1_000)
        # The counter makes the ids of one microsecond differ within this process; its random start makes them differ
        # from those of other processes.
        return now + self._node + base62(next(self._serial) % _RANDOM_SPACE).rjust(4, "0")


_generator = _Generator()


def unique_id() -> str:
    """A new id of 19 letters and digits; safe to call from any thread, from a signal's handler, and after a fork."""
    return _generator()


def _after_fork() -> None:
    global _generator
    _generator = _Generator()


after_fork_in_child(ForkStage.IDS, _after_fork)
