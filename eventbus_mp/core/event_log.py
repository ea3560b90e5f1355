"""The event log: a bounded memory of what happened lately to events, and of the records of events that are settled.

An entry says what happened to some events of one batch: a first sequence number and a mask. So the hot path pays for it
once a batch, whatever the batch's size, and it pays for a tuple and an append. Names and texts are made when somebody
asks. Entries hold names of subscribers and pids of processes, so they can be read when both are gone.

An event that is settled has left every table. Its record stays for a while in a ring of bytes, where a search by the
CRC of its id finds it at the speed of `bytes.rfind`.

Both are the core's state: a standby has a copy, and what it repeats makes the same entries with the same times.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from eventbus_mp.core.event_batch import Topic
from eventbus_mp.geometry import RECORD_BYTES
from eventbus_mp.protocol.records import ID_CRC_OFFSET, TOPIC_OFFSET

__all__ = ["EventLog", "LogEntry", "RecordRing", "places_of_id", "topics_of"]

ENTRY_BYTES = 256
"""What an entry takes, about: a tuple of eight, two numbers of its own, and its share of a list of topics."""

LogEntry = tuple[int, int, int, int, Sequence[Topic], int, "tuple[str, bytes, str] | None", Any]
"""now_ns, kind, first sequence, mask, topics (one for all events, or one for each), pid (0: none), subscriber, detail.

A plain tuple: making a named one costs a call.
"""

_WORD = struct.Struct("=I")


class EventLog:
    """The latest entries, and the records of the events that were settled last.

    Args:
        bytes_max: What it may take, about; half of it for the entries, half for the records.
    """

    def __init__(self, bytes_max: int) -> None:
        self._entries: deque[LogEntry] = deque(maxlen=bytes_max // 2 // ENTRY_BYTES)
        self.append: Callable[[LogEntry], None] = self._entries.append
        """Write an entry down, as a single call; the times never go back."""
        self.ended = RecordRing(bytes_max // 2)

    def entries(self) -> list[LogEntry]:
        """All that are left, the oldest first."""
        return list(self._entries)


class RecordRing:
    """Packed records, the newest of which overwrite the oldest. It never grows, and keeps no object alive.

    Args:
        length: How many bytes it has at most; it takes whole records.
    """

    def __init__(self, length: int) -> None:
        self._length = length // RECORD_BYTES * RECORD_BYTES
        self._bytes = bytearray(self._length)
        self._end = 0
        """Where the next record goes. What is before it is newer than what is behind it."""

    def add(self, packed: bytes) -> None:
        """Keep these records, which take no more than the ring has."""
        start, stop = self._end, self._end + len(packed)
        if stop > self._length:
            fits = self._length - start
            self._bytes[start:] = packed[:fits]
            packed = packed[fits:]
            start, stop = 0, len(packed)
        self._bytes[start:stop] = packed
        self._end = stop

    def find(self, topic: int, id_crc: int, limit: int) -> list[bytes]:
        """Up to `limit` records of this topic number whose ids have this CRC, those that ended last first."""
        found: list[bytes] = []
        for start, stop in ((0, self._end), (self._end, self._length)):
            for at in places_of_id(self._bytes, start, stop, id_crc):
                if _WORD.unpack_from(self._bytes, at + TOPIC_OFFSET)[0] == topic:
                    found.append(bytes(self._bytes[at : at + RECORD_BYTES]))
                    if len(found) == limit:
                        return found
        return found


def places_of_id(table: bytes | bytearray, start: int, stop: int, id_crc: int) -> Iterator[int]:
    """Where the records of ids with this CRC begin, in a table of records from `start` to `stop`; the last one first.

    A record costs one turn of the loop at most, whatever the CRC, and the way between two matches is walked at the
    speed of C.
    """
    pattern = _WORD.pack(id_crc)
    while (place := table.rfind(pattern, start, stop)) >= 0:
        behind = (place - ID_CRC_OFFSET) % RECORD_BYTES
        if not behind:  # else: the same four bytes, in another field, or in two.
            yield place - ID_CRC_OFFSET
        # The next CRC is in front of what was found.
        stop = max(place - (behind or RECORD_BYTES) + _WORD.size, 0)  # A negative one would count from the end.


def topics_of(topics: Sequence[Topic], mask: int) -> list[Topic]:
    """The topics of these events, each once; `topics` is one for all events of the batch, or one for each."""
    if len(topics) <= 1:
        return list(topics)
    return list(dict.fromkeys(topic for index, topic in enumerate(topics) if mask >> index & 1))
