"""A transport over real pipes, without a manager, and the other ends of these."""

import os
import threading
from collections.abc import Callable

from eventbus_mp import ManagerLost
from eventbus_mp.client.transport import PipeTransport

__all__ = ["Peer", "in_thread"]


class Peer:
    """The other ends of the pipes."""

    def __init__(self) -> None:
        incoming, self.to_transport = os.pipe()
        self.from_transport, outgoing = os.pipe()
        self.transport = PipeTransport(incoming, outgoing)
        self.received: list[bytes] = []
        self.transport.on_data = self._on_data

    def _on_data(self, data: bytes) -> None:
        self.received.append(data)
        if not data:
            self.transport.end(ManagerLost("the peer is gone"))

    def say(self, data: bytes) -> None:
        os.write(self.to_transport, data)

    def leave(self) -> None:
        for fd in (self.to_transport, self.from_transport):
            if fd >= 0:
                os.close(fd)
        self.to_transport = self.from_transport = -1


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
