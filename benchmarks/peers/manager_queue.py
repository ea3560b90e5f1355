"""multiprocessing.Manager().Queue: a queue in a server process, and everybody has a proxy of it.

Each `put` and `get` is a call over a unix socket, answered by a thread of the server. As with `multiprocessing.Queue`
there is no acknowledgement of its own; each consumer process counts what it has handled. (`join` of a proxied queue
would be one more call an event.) What a dead consumer held is lost.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.mp_queue import QueueRig
from eventbus_mp.bench.interface import Layout, Peer, Rig

__all__ = ["ManagerQueuePeer", "ManagerQueueRig"]


class ManagerQueuePeer(Peer):
    name = "Manager().Queue"

    @contextmanager
    def open(self, layout: Layout, directory: Path) -> Iterator[Rig]:
        with multiprocessing.get_context("spawn").Manager() as manager:
            queues = [[manager.Queue() for _ in range(layout.subscribers)] for _ in range(layout.stages)]
            yield ManagerQueueRig(queues, directory, manager._process.pid)  # type: ignore[attr-defined]


class ManagerQueueRig(QueueRig):
    def __init__(self, queues: list[list[Any]], directory: Path, server_pid: int) -> None:
        super().__init__(queues, directory)
        self._server_pid = server_pid

    def servers(self) -> dict[str, int]:
        return {"manager": self._server_pid}
