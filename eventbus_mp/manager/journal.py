"""The journal: everything that the manager took in lately, in memory that outlives it.

The core is a pure function of its messages, so whoever has a copy of the manager from some moment, and what came in
since, can do what the manager did: that is the standby (standby.py). Bytes are read from a pipe straight into the
journal, so none is ever out of the pipe and not yet here.

    0            8      16          24
    +------------+------+-----------+----------------
    | generation | heir | takeovers | entries ...        an entry: | kind | link | length | number | now_ns | bytes |
    +------------+------+-----------+----------------    of which the kind is written last

Only the manager writes. A generation begins when a new standby has made the entries before it superfluous.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import struct
import termios
from collections.abc import Iterator
from typing import NamedTuple

from eventbus_mp.runtime.pipe import READ_BYTES

__all__ = ["LINK_LOST", "LINK_OPENED", "READ", "TIME_PASSED", "Entry", "Journal", "Position"]

JOURNAL_BYTES = 8 << 20
"""Some 200,000 records: what a standby has to catch up with takes it less than a tenth of a second."""

READ, LINK_OPENED, LINK_LOST, TIME_PASSED = 1, 2, 3, 4
"""`number` is the pid of a link that was opened, and whether a lost one crashed."""

_HEAD = struct.Struct("=QQQ")
_ENTRY = struct.Struct("=IIQQQ")
_WORD = struct.Struct("=I")
_UNREAD = os.urandom(8)
"""Stands where the last bytes of a read will be: as long as it does, nothing was read."""


class Entry(NamedTuple):
    kind: int
    link: int
    number: int
    now_ns: int
    data: bytes


class Position(NamedTuple):
    """A place in the journal."""

    generation: int
    position: int


class Journal:
    """Shared with the processes that are forked after it was made, and gone with the last of them."""

    def __init__(self) -> None:
        fd = os.memfd_create("eventbus_mp-journal", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, JOURNAL_BYTES)
            self._memory = mmap.mmap(fd, JOURNAL_BYTES)
        finally:
            os.close(fd)
        self._view = memoryview(self._memory)
        self._available = array.array("i", [0])
        self._generation = 0
        self._offset = _HEAD.size

    # --- what the heirs have to agree on ---

    @property
    def successor_pid(self) -> int:
        """The pid of the only process that may take over."""
        return int(_HEAD.unpack_from(self._view)[1])

    @successor_pid.setter
    def successor_pid(self, pid: int) -> None:
        struct.pack_into("=Q", self._view, 8, pid)

    @property
    def takeovers(self) -> int:
        """How many managers in a row have begun to take over and not come to the end of it."""
        return int(_HEAD.unpack_from(self._view)[2])

    @takeovers.setter
    def takeovers(self, count: int) -> None:
        struct.pack_into("=Q", self._view, 16, count)

    # --- writing ---

    @property
    def is_full(self) -> bool:
        """Whether it is time for a new standby: there may be no room for another read."""
        return self._offset > JOURNAL_BYTES - 2 * (READ_BYTES + _ENTRY.size)

    @property
    def position(self) -> Position:
        """Where the next entry goes."""
        return Position(self._generation, self._offset)

    def restart(self) -> None:
        """Begin a new generation: what is written so far is of no use to anybody."""
        _WORD.pack_into(self._view, _HEAD.size, 0)
        self._generation += 1
        struct.pack_into("=Q", self._view, 0, self._generation)
        self._offset = _HEAD.size

    def append(self, kind: int, link: int, number: int, now_ns: int) -> None:
        """Write down what is not read from a pipe."""
        self._begin(kind, link, 0, number, now_ns)
        self._offset += _ENTRY.size

    def read(self, fd: int, link: int, now_ns: int) -> bytes | None:
        """Take up to `READ_BYTES` out of a pipe; b"" at the end of file; None when there is nothing now."""
        length = self._readable(fd)
        if not length:
            # Empty, or at its end. A read would tell, but it could also take a byte that arrives just now.
            if not _is_at_its_end(fd):
                return None
            length = self._readable(fd)  # It may have arrived before the end.
            if not length:
                return b""
        start = self._offset + _ENTRY.size
        stop = start + length
        self._view[stop - min(length, 8) : stop] = _UNREAD[: min(length, 8)]
        self._begin(READ, link, length, 0, now_ns)
        os.readv(fd, [self._view[start:stop]])
        self._offset = stop + -stop % 8
        return bytes(self._view[start:stop])

    def _readable(self, fd: int) -> int:
        fcntl.ioctl(fd, termios.FIONREAD, self._available)
        return min(self._available[0], READ_BYTES)

    def _begin(self, kind: int, link: int, length: int, number: int, now_ns: int) -> None:
        # The next entry's place first: the entries of an earlier generation lie there.
        after = self._offset + _ENTRY.size + length
        _WORD.pack_into(self._view, after + -after % 8, 0)
        _ENTRY.pack_into(self._view, self._offset, 0, link, length, number, now_ns)
        _WORD.pack_into(self._view, self._offset, kind)

    # --- reading, as an heir ---

    def replay(self, position: Position) -> Iterator[Entry]:
        """Every entry since `mark`; afterwards this process is the one that writes, and goes on behind them.

        The last one may have been written down and not carried out: its bytes are still in their pipe.
        """
        self._generation = int(_HEAD.unpack_from(self._view)[0])
        self._offset = position.position if position.generation == self._generation else _HEAD.size
        while True:
            kind, link, length, number, now_ns = _ENTRY.unpack_from(self._view, self._offset)
            start = self._offset + _ENTRY.size
            data = bytes(self._view[start : start + length])
            if not kind or (kind == READ and data[-8:] == _UNREAD[: min(length, 8)]):
                return
            stop = start + length
            self._offset = stop + -stop % 8
            yield Entry(kind, link, number, now_ns, data)


def _is_at_its_end(fd: int) -> bool:
    """Whether nobody has the other end of a pipe any more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
