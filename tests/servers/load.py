"""Clients that send requests over a unix socket, each on a connection of its own, and keep what was answered."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Answers", "get", "post", "send_requests"]

CLIENTS = 8
HANGS_S = 20.0
"""A request that takes longer than this hangs."""
ROUND = 10
"""Of ten requests of a client, one asks for a report, one writes a value and one reads it; the rest publish jobs."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=HANGS_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(path: Path, route: str) -> tuple[int, Any]:
    """The status of a request and the JSON that was answered, or else the text.

    Raises:
        OSError, http.client.HTTPException: It was not answered.
    """
    status, body = _request(_Connection(path), "GET", route)
    return status, json.loads(body) if status == 200 else body.decode(errors="replace")


def post(address: Path | int, route: str) -> int:
    """The status of a request without a body, to a unix socket or a port of this machine; raises as `get`."""
    plain = http.client.HTTPConnection
    connection = plain("127.0.0.1", address, timeout=HANGS_S) if isinstance(address, int) else _Connection(address)
    return _request(connection, "POST", route)[0]


def _request(connection: http.client.HTTPConnection, method: str, route: str) -> tuple[int, bytes]:
    try:
        connection.request(method, route, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@dataclass
class Answers:
    """What the clients were answered."""

    jobs: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    hanging: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Requests whose worker ended before it had answered."""
    failed: list[str] = field(default_factory=list)
    """Requests that were answered with an error."""
    stale: list[str] = field(default_factory=list)
    """Reads that gave another value than the one that was written before."""


def send_requests(path: Path, count: int, at: Callable[[int], object]) -> Answers:
    """Send `count` requests, several at a time; `at` is called with the number of each before it is sent."""
    answers, numbers = Answers(), itertools.count()
    problems: list[BaseException] = []

    def run(client: _Client) -> None:
        try:
            while (number := next(numbers)) < count:
                at(number)
                client.send_next()
        except BaseException as problem:
            problems.append(problem)

    clients = [_Client(path, str(number), answers) for number in range(CLIENTS)]
    threads = [threading.Thread(target=run, args=(client,), name=f"client-{client.key}") for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return answers


class _Client:
    """One that sends a request after the other, and alone writes the value of its key."""

    def __init__(self, path: Path, key: str, answers: Answers) -> None:
        self.path = path
        self.key = key
        self.answers = answers
        self._turn = 0
        self._written: str | None = None
        """What every worker has to read; None: a write was not answered, and may have happened or not."""

    def send_next(self) -> None:
        """Send the next request, and keep what came of it."""
        kind, version = self._turn % ROUND, str(self._turn // ROUND)
        self._turn += 1
        if kind == 0:
            self._ask("/report")
        elif kind == 1:
            self._written = version if self._ask(f"/write/{self.key}/{version}") else None
        elif kind == 2 and self._written is not None:
            self._read_value(self._written)
        elif kind == 3:
            self._ask("/read-job")
        else:
            self._ask("/job")

    def _read_value(self, written: str) -> None:
        said = self._ask(f"/value/{self.key}")
        if said and said["value"] != written:
            text = f"process {said['pid']} has {said['value']!r} for {self.key}, and {written!r} was written"
            self.answers.stale.append(text)

    def _ask(self, route: str) -> dict[str, Any]:
        """What was answered; empty if nothing was, or an error."""
        answers, began = self.answers, time.monotonic()
        try:
            status, said = get(self.path, route)
        except TimeoutError:
            answers.hanging.append(route)
            return {}
        except (OSError, http.client.HTTPException) as error:
            answers.broken.append(f"{route}: {error!r}")
            return {}
        answers.latencies_s.append(time.monotonic() - began)
        if status != 200:
            answers.failed.append(f"{route}: {status} {said}")
            return {}
        answers.pids.add(said["pid"])
        if "job" in said:
            answers.jobs.append(said["job"])
        if "report" in said:
            answers.reports.append(said["report"])
        if said.get("read", said.get("job")) != said.get("job"):
            answers.failed.append(f"{route}: {said['read']} was read for {said['job']}")
        return dict(said)
