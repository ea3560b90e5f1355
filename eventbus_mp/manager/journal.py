"""The journal: everything that the manager took in lately, in memory that outlives it.

The core is a pure function of its messages. So a process that has a copy of the manager from some moment, and what came
in since, can do what the manager did: that is the standby (standby.py). Bytes are read from a pipe straight into the
journal, so none is ever out of the pipe and not yet here.

    0            8               16          24
    +------------+---------------+-----------+----------------
    | generation | successor_pid | takeovers | entries ...
    +------------+---------------+-----------+----------------

    an entry: | kind | link | length | number | now_ns | bytes, up to a multiple of 8 |

Only the manager writes. A generation begins when a new standby has made the entries before it superfluous.

The manager can be killed between any two writes, and what it has written must be read the same way. Therefore:

- An entry's kind is written last, and is 0 until then. A kind of 0 ends the journal.
- The kind of the place behind an entry is set to 0 before that, because an older generation has left its bytes there.
- Where a read will put its last bytes there is a marker. If the manager is killed before the kernel has copied them,
  the marker is still there: the entry does not count, and the bytes are still in their pipe.
"""

from __future__ import annotations

import array
import enum
import fcntl
import mmap
import os
import select
import struct
import termios
from collections.abc import Iterator
from typing import NamedTuple

from eventbus_mp.runtime.pipe import READ_BYTES

__all__ = ["JOURNAL_BYTES", "Entry", "EntryKind", "Journal", "Position"]

JOURNAL_BYTES = 8 << 20
"""Room for about 200,000 records. A standby catches up with that in less than a tenth of a second."""
_MARKER_BYTES = 8


class EntryKind(enum.IntEnum):
    """What an entry says has happened. Not 0, which ends the journal."""

    READ = 1
    """These bytes came from a link."""
    LINK_OPENED = 2
    """`number` is the pid of its process."""
    LINK_LOST = 3
    """The pipe of the link ended, or the manager gave it up."""
    TIME_PASSED = 4
    """Something was due."""
    END_ASKED = 5
    """A signal asked the manager to end."""


_HEAD = struct.Struct("=QQQ")
_WORD = struct.Struct("=I")
_LONG = struct.Struct("=Q")
_ENTRY = struct.Struct("=IIQQQ")
_GENERATION_OFFSET, _SUCCESSOR_OFFSET, _TAKEOVERS_OFFSET = 0, 8, 16
_RESERVE_BYTES = 2 * (READ_BYTES + _ENTRY.size)
"""What has to be left for another read."""
_READ = EntryKind.READ  # A look-up in an enumeration's class is a call before Python 3.12; this one is once a read.
_UNREAD = os.urandom(_MARKER_BYTES)
"""The marker. Random, because no process must be able to send it; the standby has it from the manager by `fork`."""


class Entry(NamedTuple):
    """Something that happened, as the manager wrote it down."""

    kind: EntryKind
    link: int
    number: int
    now_ns: int
    data: bytes


class Position(NamedTuple):
    """A place in the journal. Its offset holds for its generation only: a later one begins at the start."""

    generation: int
    offset: int


class Journal:
    """The manager appends and reads pipes through it; a successor replays it, and then appends in its turn.

    Its memory is shared with the processes that are forked after it was made, and is gone with the last of them.
    """

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

    # --- what the standbys have to agree on ---

    @property
    def successor_pid(self) -> int:
        """The pid of the only process that may take over."""
        return int(_LONG.unpack_from(self._view, _SUCCESSOR_OFFSET)[0])

    @successor_pid.setter
    def successor_pid(self, pid: int) -> None:
        _LONG.pack_into(self._view, _SUCCESSOR_OFFSET, pid)

    @property
    def takeovers(self) -> int:
        """How many managers in a row have begun to take over and have not finished."""
        return int(_LONG.unpack_from(self._view, _TAKEOVERS_OFFSET)[0])

    @takeovers.setter
    def takeovers(self, count: int) -> None:
        _LONG.pack_into(self._view, _TAKEOVERS_OFFSET, count)

    # --- writing ---

    @property
    def is_full(self) -> bool:
        """Whether it is time for a new standby: there may be no room for another read."""
        return self._offset > JOURNAL_BYTES - _RESERVE_BYTES

    @property
    def position(self) -> Position:
        """Where the next entry goes."""
        return Position(self._generation, self._offset)

    def restart(self) -> None:
        """Begin a new generation: the newest standby needs nothing of what is written so far."""
        _WORD.pack_into(self._view, _HEAD.size, 0)
        self._generation += 1
        _LONG.pack_into(self._view, _GENERATION_OFFSET, self._generation)
        self._offset = _HEAD.size

    def append(self, kind: EntryKind, link: int, number: int, now_ns: int) -> None:
        """Write down what was not read from a pipe."""
        self._begin(kind, link, 0, number, now_ns)
        self._offset += _ENTRY.size

    def read(self, fd: int, link: int, now_ns: int) -> bytes | None:
        """Take up to `READ_BYTES` out of a pipe: b"" at its end, None if there is nothing now.

        Call it only while the journal is not full.
        """
        length = self._readable(fd)
        if not length:
            # Empty, or at its end. A read would distinguish the two, but it could also take a byte that arrives now.
            if not _is_at_its_end(fd):
                return None
            length = self._readable(fd)  # Some may have arrived between the first look and the end.
            if not length:
                return b""
        start = self._offset + _ENTRY.size
        stop = start + length
        place = self._view[start:stop]
        if length >= _MARKER_BYTES:
            place[-_MARKER_BYTES:] = _UNREAD
        else:
            place[:] = _UNREAD[:length]
        self._begin(_READ, link, length, 0, now_ns)
        os.readv(fd, [place])
        self._offset = stop + -stop % 8
        return place.tobytes()

    def _readable(self, fd: int) -> int:
        fcntl.ioctl(fd, termios.FIONREAD, self._available)
        return min(self._available[0], READ_BYTES)

    def _begin(self, kind: int, link: int, length: int, number: int, now_ns: int) -> None:
        # In this order; why is said at the top.
        after = self._offset + _ENTRY.size + length
        _WORD.pack_into(self._view, after + -after % 8, 0)
        _ENTRY.pack_into(self._view, self._offset, 0, link, length, number, now_ns)
        _WORD.pack_into(self._view, self._offset, kind)

    # --- reading, as the successor ---

    def replay(self, position: Position) -> Iterator[Entry]:
        """Every entry since `position`. Afterwards this process is the one that writes, and appends behind them.

        The last read may have been written down and not carried out. It is left out: its bytes are still in their pipe.
        """
        self._generation = int(_LONG.unpack_from(self._view, _GENERATION_OFFSET)[0])
        self._offset = position.offset if position.generation == self._generation else _HEAD.size
        while True:
            kind, link, length, number, now_ns = _ENTRY.unpack_from(self._view, self._offset)
            start = self._offset + _ENTRY.size
            data = bytes(self._view[start : start + length])
            stop = start + length
            after = stop + -stop % 8
            if not kind:
                return
            # Only the last entry can be unread. One before it ends with the marker by chance: if it is of a few bytes.
            is_last = not _WORD.unpack_from(self._view, after)[0]
            if kind == _READ and is_last and data[-8:] == _UNREAD[: min(length, 8)]:
                return
            self._offset = after
            yield Entry(EntryKind(kind), link, number, now_ns, data)


def _is_at_its_end(fd: int) -> bool:
    """Whether no process has the other end of a pipe any more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
