"""Event ids: what they may be, how they are written, and new ones, in base62 of time, node and serial number.

An id is a text or an integer of 64 bits, signed; 7 and "7" are two ids. New ids sort by the time at which they were
made, to the microsecond. Two processes never make the same one: the node part comes from the machine, the process and
the operating system's random numbers, and the serial number begins at random.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
import uuid

from eventbus_mp.lifecycle import FORK_MARK, ForkStage, after_fork_in_child, notice_fork

__all__ = ["INT_IDS", "EventId", "base62", "decode_id", "encode_id", "unique_id"]

EventId = str | int

INT_IDS = range(-(1 << 63), 1 << 63)
_INT_MARK = 0xFF
"""The first byte of an integer; no text begins with it, because UTF-8 never has this byte."""
_INT_ID = struct.Struct("=Bq")

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


def encode_id(event_id: EventId) -> bytes:
    """The id as it lies in memory: UTF-8, or a mark and eight bytes.

    Raises:
        UnicodeEncodeError: It is a text that is not valid unicode.
    """
    return event_id.encode() if type(event_id) is str else _INT_ID.pack(_INT_MARK, event_id)


def decode_id(encoded: bytes | memoryview) -> EventId:
    """The id that was encoded.

    Raises:
        ValueError: These bytes are not an id.
    """
    if not encoded or encoded[0] != _INT_MARK:
        return str(encoded, "utf-8")
    if len(encoded) != _INT_ID.size:
        raise ValueError(f"an integer id has {_INT_ID.size} bytes, not {len(encoded)}")
    return int(_INT_ID.unpack(encoded)[1])


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
    """A new id of 19 letters and digits; safe to call from any thread, from a signal handler, and after a fork."""
    if not FORK_MARK[0]:
        notice_fork()
    return _generator()


def _after_fork() -> None:
    global _generator
    _generator = _Generator()


after_fork_in_child(ForkStage.IDS, _after_fork)
