"""A way to a NATS server on which messages are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.addons.bridge.nats_servers import NatsServer

__all__ = ["LossyWay"]

_WITH_PAYLOAD = (b"MSG", b"HMSG", b"PUB", b"HPUB")


class LossyWay:
    """Passes on what a client and a server say, but for messages that `loses(subject)`. Cut, all is lost in silence."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self.loses: Callable[[bytes], bool] = lambda subject: False
        self.is_cut = False
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> LossyWay:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.drop_connections()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def lose_next(self, part: bytes, count: int = 1) -> None:
        """The next messages to subjects with this part."""
        left = [count]

        def loses(subject: bytes) -> bool:
            is_lost = part in subject and left[0] > 0
            left[0] -= is_lost
            return is_lost

        self.loses = loses

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
        except ConnectionRefusedError:
            writer.close()
            return
        self._writers += [writer, to_server[1]]
        for source, sink in ((reader, to_server[1]), (to_server[0], writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while line := await source.readline():
                words = line.split()
                is_lost = self.is_cut
                if words and words[0] in _WITH_PAYLOAD:
                    line += await source.readexactly(int(words[-1]) + 2)
                    is_lost = is_lost or self.loses(words[1])
                if not is_lost:
                    sink.write(line)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The other end is gone, which the caller has done.
        sink.close()
