"""The manager's ends of one process's pipes. Neither blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections import deque

__all__ = ["READ_BYTES", "PipeEnds", "make_pipe"]

READ_BYTES = 1 << 16
"""`os.read` allocates this much first. Over 128 KiB that is a mapping of its own, and a read takes 9 us and not 1."""
PIPE_BYTES = 1 << 18
BACKLOG_BYTES_MAX = 256 << 20
"""How much may wait for a process that does not read. A process that asks and never reads the answers is cut off."""


def make_pipe() -> tuple[int, int]:
    """(read end, write end), neither inheritable, with more room than the usual 64 KiB if the kernel grants it."""
    ends = os.pipe()
    with contextlib.suppress(PermissionError):  # The user's share of pipe memory is used up: the usual size will do.
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ if hasattr(fcntl, "F_SETPIPE_SZ") else 1031, PIPE_BYTES)
    return ends


class PipeEnds:
    """Writes what fits, in whole frames, and keeps the rest until there is room.

    A write of up to `PIPE_BUF` bytes is done whole or not at all. So when the manager dies, what is in the pipe ends
    with the end of a frame, and the frames of the next manager can follow it.

    Args:
        incoming: Where the process writes to; `Journal.read` reads it.
        outgoing: Where the process reads from.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        os.set_blocking(incoming, False)
        os.set_blocking(outgoing, False)
        self.incoming = incoming
        self.outgoing = outgoing
        self._frames: deque[bytes] = deque()
        self._bytes = 0

    def queue(self, frames: list[bytes]) -> None:
        """Keep frames, none of which is over `PIPE_BUF`, for the next `flush`: many effects then cost few writes."""
        self._frames += frames
        self._bytes += sum(map(len, frames))

    def drop_queued(self) -> None:
        """Forget what was not written."""
        self._frames.clear()
        self._bytes = 0

    @property
    def overflowing(self) -> bool:
        """Whether more waits than may wait."""
        return self._bytes > BACKLOG_BYTES_MAX

    def flush(self) -> bool:
        """Write what fits. Returns whether nothing is left: if the reader is gone, the rest is dropped."""
        frames = self._frames
        while frames:
            data = frames.popleft()
            if frames:
                data = self._filled_up(data)
            try:
                os.write(self.outgoing, data)
            except BlockingIOError:
                frames.appendleft(data)
                return False
            except BrokenPipeError:
                self.drop_queued()
                return True
            self._bytes -= len(data)
        return True

    def _filled_up(self, first: bytes) -> bytes:
        """The frame with as many of the next ones as go into one write."""
        frames, chunk, size = self._frames, [first], len(first)
        while frames and size + len(frames[0]) <= select.PIPE_BUF:
            chunk.append(frames.popleft())
            size += len(chunk[-1])
        return b"".join(chunk)

    def close(self) -> None:
        """Close both ends; what was not written is lost."""
        os.close(self.incoming)
        os.close(self.outgoing)
