"""The page on a server of its own: what `eventbus-mp web` runs."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from eventbus_mp import EventBusError, UsageError
from eventbus_mp.addons.web.app import WebApp

try:
    import uvicorn
except ImportError as cause:
    raise UsageError(
        "eventbus_mp.addons.web needs the packages starlette and uvicorn, which are not installed; "
        "type: pip install 'eventbus-mp[web]'"
    ) from cause

__all__ = ["is_loopback", "listening", "serve"]

BACKLOG = 128
LEAVE_S = 2
"""How long answers that are under way may take at the end."""
UNTAKEN_MS = 15_000
"""After so long the kernel drops a connection whose other side takes nothing."""


class _Server(uvicorn.Server):
    """Ends its app's streams as soon as it is asked to end, and leaves it to the caller what the process does then."""

    def __init__(self, config: uvicorn.Config, app: WebApp) -> None:
        super().__init__(config)
        self.should_exit: bool
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The second time, wait for nothing."""
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._app.stop)


def serve(app: WebApp, listener: socket.socket, said: Callable[[], None] = lambda: None) -> None:
    """Serve the app until SIGINT or SIGTERM, which end open streams at once. For the main thread; blocks.

    Args:
        app: The app.
        listener: What `listening` has made.
        said: Called just before the first request can be answered.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LEAVE_S,
    )
    said()
    _Server(config, app).run(sockets=[listener])


@contextlib.contextmanager
def listening(host: str, port: int, uds: str | None, *, is_guarded: bool) -> Iterator[tuple[socket.socket, str]]:
    """A listening socket, and its address for people; at the end it is closed, and its file is gone.

    Args:
        host: An address of this machine.
        port: 0: any that is free.
        uds: The path of a socket to listen on instead; one that nobody listens on any more is replaced.
        is_guarded: Every request has to show a token.

    Raises:
        UsageError: Others could reach the page, and there is no token; or the path is that of another file.
        EventBusError: The address is taken, or is not one of this machine.
    """
    if uds is not None:
        path = Path(uds)
        with _unix_listener(path) as listener:
            made = path.stat().st_ino
            try:
                yield listener, f"unix:{path}"
            finally:
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_ino == made:
                        path.unlink()
        return
    if not is_guarded and not is_loopback(host):
        raise UsageError(f"--host {host}: others can reach this address; give a --token, or take 127.0.0.1")
    with _tcp_listener(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        yield listener, f"http://{name}:{listener.getsockname()[1]}/"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tcp_listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as cause:
        raise EventBusError(f"{host} cannot be listened on: {cause.strerror}") from cause
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # What is accepted has it as well. A viewer that has vanished, or reads no more, would stay for ever.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise EventBusError(
            f"port {port} of {host} cannot be listened on: {cause.strerror}; --port names another one, 0 any"
        ) from cause
    return listener


def _unix_listener(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The file takes its mode when it is made: later would be too late.
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise EventBusError(f"{path} cannot be listened on: {cause.strerror or cause}") from cause
    finally:
        os.umask(before)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket that a server has left which was killed."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"--uds {path}: there is a file of this name, which is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as cause:
            raise EventBusError(f"--uds {path} cannot be looked at: {cause.strerror}") from cause
    raise EventBusError(f"--uds {path}: another server listens there")
