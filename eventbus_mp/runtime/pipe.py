"""The manager's ends of one process's pipes. Neither blocks."""

from __future__ import annotations

import contextlib
import fcntl
import os

__all__ = ["READ_BYTES", "PipeEnds", "make_pipe"]

READ_BYTES = 1 << 16
"""`os.read` allocates this much first: beyond 128 KiB that is a mapping of its own, and a read takes 9 us, not 1."""
PIPE_BYTES = 1 << 18
BACKLOG_BYTES_MAX = 256 << 20
"""What may wait for a process that does not read; one that asks and never listens is cut off."""


def make_pipe() -> tuple[int, int]:
    """(read end, write end), neither inheritable, with more room than the usual 64 KiB if the kernel grants it."""
    ends = os.pipe()
    with contextlib.suppress(PermissionError):  # over the user's share of pipe memory: the usual size will do
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ if hasattr(fcntl, "F_SETPIPE_SZ") else 1031, PIPE_BYTES)
    return ends


class PipeEnds:
    """Reads what is there, writes what fits, and keeps the rest until there is room."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        os.set_blocking(incoming, False)
        os.set_blocking(outgoing, False)
        self.incoming = incoming
        self.outgoing = outgoing
        self._pending: list[bytes] = []
        self._backlog = b""

    def read(self) -> bytes | None:
        """Up to `READ_BYTES`; b"" at the end of file; None when there is nothing now."""
        try:
            return os.read(self.incoming, READ_BYTES)
        except BlockingIOError:
            return None

    def queue(self, data: bytes) -> None:
        """Keep for the next `flush`: one write a cycle, however many effects."""
        self._pending.append(data)

    @property
    def overflowing(self) -> bool:
        return len(self._backlog) > BACKLOG_BYTES_MAX

    def flush(self) -> bool:
        """Write what fits; whether everything did. A reader that is gone swallows the rest."""
        data = self._backlog + b"".join(self._pending)
        self._pending.clear()
        try:
            written = os.write(self.outgoing, data) if data else 0
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            self._backlog = b""
            return True
        self._backlog = data[written:]
        return not self._backlog

    def close(self) -> None:
        os.close(self.incoming)
        os.close(self.outgoing)
