"""A pooler between clients and a PostgreSQL server: one session of the server for all, from transaction to transaction.

pgbouncer does so with `pool_mode = transaction`. Of the protocol there is enough for what is asked in front of a lock.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["Pooler", "running_pooler"]

PROTOCOL = 3 << 16
IDLE = b"I"


class Pooler:
    """Args:
    server: The server's socket.
    database: To which each client is connected.
    folder: Where the pooler has its socket.
    """

    def __init__(self, server: Path, database: str, folder: Path) -> None:
        self._session = socket.socket(socket.AF_UNIX)
        self._session.connect(str(server))
        self._said = self._session.makefile("rb")
        self._turn = threading.Lock()
        """Who has it has a transaction."""
        words = b"\0".join((b"user", b"postgres", b"database", database.encode(), b"", b""))
        self._session.sendall(struct.pack("!II", len(words) + 8, PROTOCOL) + words)
        greeting = [one for one in self._answer() if one[:1] in b"RSZ"]
        self._greeting = b"".join([*greeting[:-1], b"K" + struct.pack("!III", 12, 7, 7), greeting[-1]])
        """With the number of a process that there is not, as a pooler makes it up."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(20)
        for client in self._clients:
            client.close()
        for thread in self._threads:
            thread.join(20)
        self._listener.close()
        self._said.close()
        self._session.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as asked:
            (length,) = struct.unpack("!I", asked.read(4))
            asked.read(length - 4)
            client.sendall(self._greeting)
            is_idle = True
            while request := _request(asked):
                if is_idle:
                    self._turn.acquire()
                self._session.sendall(request)
                answer = self._answer()
                is_idle = answer[-1][-1:] == IDLE
                client.sendall(b"".join(answer))
                if is_idle:
                    self._turn.release()

    def _answer(self) -> list[bytes]:
        """All messages until the server is ready for the next query."""
        messages = [_message(self._said)]
        while messages[-1][:1] != b"Z":
            messages.append(_message(self._said))
        return messages


@contextmanager
def running_pooler(server: Path, database: str, folder: Path) -> Iterator[str]:
    """The URL of the database through a pooler, which has its socket in `folder`."""
    pooler = Pooler(server, database, folder)
    try:
        yield f"postgresql://postgres@/{database}?host={folder}"
    finally:
        pooler.close()


def _message(source: BinaryIO) -> bytes:
    head = source.read(5)
    return head + source.read(struct.unpack("!I", head[1:])[0] - 4) if head else b""


def _request(source: BinaryIO) -> bytes:
    """What a client asks, up to where it waits for an answer; nothing: it has left."""
    messages = b""
    while message := _message(source):
        if message[:1] == b"X":
            return b""
        messages += message
        if message[:1] in b"QS":
            return messages
    return b""
