"""Hosts of a cluster on one machine: a bus and a bridge each, the bridge in this process or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.bridge import Bridge
from tests.helpers import until

__all__ = ["BridgeProcess", "Host", "sees", "settled"]


class Host:
    """A bus, whose name is the host's, and what bridges it."""

    def __init__(self, name: str, bus: EventBus, servers: str, **settings: Any) -> None:
        self.name = name
        self.bus = bus
        self.servers = servers
        self.settings = {"cluster": "shop", "host": name, **settings}
        self.bridge: Bridge | None = None

    def start(self) -> Host:
        """Bridge it in this process, by a handle of its own."""
        handle = EventBus(self.bus.name, config=self.bus.config)
        self.bridge = Bridge(handle, self.servers, **self.settings)
        self.bridge.start()
        self._handle = handle
        return self

    def stop(self) -> None:
        """End the bridge, if there is one."""
        if self.bridge is not None:
            self.bridge.stop(timeout_s=20)
            self.bridge = None
            self._handle.close()


class BridgeProcess:
    """`eventbus-mp bridge`, which can be killed and started again."""

    def __init__(self, host: Host, log: Path) -> None:
        self._host = host
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> BridgeProcess:
        host, config = self._host, self._host.bus.config
        options = ["--nats", host.servers, "--cluster", "shop", "--host", host.name, "--run-dir", str(config.run_dir)]
        command = [sys.executable, "-m", "eventbus_mp", "bridge", host.bus.name, *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self._environment()})
        return self

    def _environment(self) -> dict[str, str]:
        config = self._host.bus.config
        return {
            "EVENTBUS_MP_MEMORY_BYTES_MAX": str(config.memory_bytes_max),
            "EVENTBUS_MP_MANAGER_IDLE_S": str(config.manager_idle_s),
        }

    def kill(self) -> None:
        """As a crash."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)

    def stop(self) -> None:
        """As a service manager does."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)


def sees(bus: EventBus, name: str, host: str | None, why_not: Callable[[], str] = lambda: "") -> None:
    """Wait until the bus has a subscriber of this name and host."""
    until(lambda: any(item.name == name and item.host == host for item in bus.subscribers()), why_not=why_not)


def settled(bus: EventBus, event: Event, timeout_s: float = 30.0) -> Any:
    """The final watcher of an event."""
    return bus.notify_and_wait(event, timeout_s=timeout_s)
