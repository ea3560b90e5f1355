"""The app on a real uvicorn of the test's own process, and a client that sends what it is told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import uvicorn

from eventbus_mp.addons.web import WebApp

PATIENCE_S = 30.0


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has nothing that only some readers of JSON understand."""
        return json.loads(self.body, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise AssertionError(f"the JSON has {name}")


def ask(
    port: int,
    path: str,
    method: str = "GET",
    *,
    host: str | None = "127.0.0.1",
    body: bytes | None = None,
    **headers: str,
) -> Answer:
    """One request, with the path and the headers as they are given; `host=None`: without a Host."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        got = connection.getresponse()
        return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
    finally:
        connection.close()


class Events:
    """An open live stream, read as a browser does."""

    def __init__(self, port: int, path: str = "/sse") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
        self._file = self.socket.makefile("rb")
        self._received = b""
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            assert line, self.head
            self.head += line

    def next(self) -> tuple[str, dict[str, Any]]:
        """The name and the data of the next message; EOFError: the stream has ended."""
        name, data = "", b""
        while True:
            line = self.line()
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                data = line[6:]
            elif not line and data:
                return name, json.loads(data)

    def until(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message of which this is true."""
        while True:
            _, data = self.next()
            if is_wanted(data):
                return data

    def wait_for_end(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                self.next()

    def line(self) -> bytes:
        """A line of the stream, put together from the pieces in which HTTP has it."""
        while b"\n" not in self._received:
            size = int(self._file.readline() or b"0", 16)
            if size == 0:
                raise EOFError
            self._received += self._file.read(size)
            self._file.readline()
        line, _, self._received = self._received.partition(b"\n")
        return line

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextlib.contextmanager
def served(app: Any, page: WebApp | None = None, **options: Any) -> Iterator[int]:
    """The port of a server that runs the app in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    options = {"timeout_graceful_shutdown": 5, **options}
    config = uvicorn.Config(app, log_config=None, ws="none", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="eventbus_mp-test-server")
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        listener.close()
        if page is not None:
            page.close()
