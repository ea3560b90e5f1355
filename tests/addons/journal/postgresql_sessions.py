"""Sessions of PostgreSQL stores, and what may happen to them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

from tests.addons.postgresql import Server

__all__ = ["CuttingProxy", "await_lock", "pid_of", "terminate"]


def pid_of(store: Any) -> int:
    """The process of the server that serves this store."""
    return int(store._connection.info.backend_pid)


def terminate(server: Server, store: Any) -> None:
    """End the session of a store, as an administrator does; the server has done it when this returns."""
    assert server.sql(f"SELECT pg_terminate_backend({pid_of(store)}, 20000)") == "t"


def await_lock(store: Any) -> None:
    """Until the session that has the lock has ended, and what it was doing with it."""
    store._connection.execute("SET lock_timeout = '20s'")
    store._connection.execute("SELECT pg_advisory_lock(%(key)s), pg_advisory_unlock(%(key)s)", {"key": store._lock_key})


class CuttingProxy:
    """Between a client and the server's socket: cuts the connection at a COMMIT, before it gets there or after it."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.cuts: str | None = None
        """"before" or "after"; None: it only passes everything on."""
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            for work, source, target in ((self._to_server, client, server), (self._to_client, server, client)):
                self._threads.append(threading.Thread(target=work, args=(source, target)))
                self._threads[-1].start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with client:
            while data := client.recv(1 << 16):
                if b"COMMIT" in data and self.cuts is not None:
                    client.shutdown(socket.SHUT_RDWR)
                    if self.cuts == "after":
                        server.sendall(data)
                    self.cuts = None
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)  # The server has read what was sent when it sees the end.

    def _to_client(self, server: socket.socket, client: socket.socket) -> None:
        with server:
            while data := server.recv(1 << 16):
                try:
                    client.sendall(data)
                except OSError:
                    pass  # It was cut.
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
