"""The transport in a process whose threads are greenlets (gevent): none of its calls keeps the others from running."""

from __future__ import annotations

import os
import select
from select import PIPE_BUF

from eventbus_mp.client.transport import PipeTransport, Poll
from eventbus_mp.errors import EventBusError

__all__ = ["GreenletTransport"]


class GreenletTransport(PipeTransport):
    """A `PipeTransport` that lets other greenlets run while a pipe is full."""

    _whole_bytes_max = 0  # Short writes wait for room as well, in `_write_pieces`.

    def _write_pieces(self, data: memoryview, written: list[int]) -> None:
        has_room = select.poll()
        has_room.register(self._outgoing, select.POLLOUT)
        while sum(written) < len(data):
            has_room.poll()
            begin = sum(written)
            written.extend(map(os.write, (self._outgoing,), (data[begin : begin + PIPE_BUF],)))

    @staticmethod
    def _make_poll() -> Poll:
        return _PollOfAnyThread()

    def abandon(self, error: EventBusError) -> None:
        """See `Transport.abandon`. Greenlets live on in a forked child; one that waits must not read any more."""
        assert isinstance(self._poll, _PollOfAnyThread)
        self._poll.forget_all()
        super().abandon(error)


class _PollOfAnyThread:
    """A poll that makes another one for each wait: gevent ties them to a thread, and its pool has real ones."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, fd: int, eventmask: int) -> None:
        self._masks[fd] = eventmask

    def unregister(self, fd: int) -> None:
        del self._masks[fd]

    def forget_all(self) -> None:
        """Nothing is ready from now on, even for who waits already."""
        self._masks.clear()

    def poll(self, timeout_ms: float | None) -> list[tuple[int, int]]:
        poller = select.poll()
        for fd, mask in self._masks.items():
            poller.register(fd, mask)
        return [found for found in poller.poll(timeout_ms) if found[0] in self._masks]
