"""Bridge: the events of a bus on other hosts, and theirs here. One process a host."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from eventbus_mp import EventBus, EventBusError, ManagerLost, UsageError
from eventbus_mp.addons.bridge.bus_side import BusSide
from eventbus_mp.addons.bridge.hub import Hub
from eventbus_mp.addons.bridge.letters import Mailboxes, MailboxesRefused
from eventbus_mp.addons.bridge.mailboxes import NatsMailboxes
from eventbus_mp.addons.bridge.settings import BridgeSettings, default_host
from eventbus_mp.addons.bridge.status import BridgeStatus, HostStatus
from eventbus_mp.addons.checks import checked_bus
from eventbus_mp.addons.service import Service

__all__ = ["Bridge", "BridgeStatus", "HostStatus"]

log = logging.getLogger("eventbus_mp.bridge")

AGAIN_S = 1.0
"""After a failure that may pass, how long to wait before everything begins anew."""
OTHER_ENDS_S = 5.0
"""A bridge that was killed counts as there until the manager has noticed."""


class Bridge(Service):
    """Bridges a bus with those of other hosts, over NATS JetStream, on threads of its own.

    The subscribers of each other host are subscribers of this bus as well, with their `host` set: they are waited for,
    counted and shown as those of this host are. What is published here goes to them, and is settled here when they have
    settled it there. A process that subscribes says by `scope` what it wants: "host" (each host gets each event),
    "cluster" (one process of all hosts does), or "local" (nothing goes to other hosts or comes from there).

    One process at a time bridges a bus. What it has sent and received is known to the bus: the next one goes on there,
    and nothing is lost or comes twice.

    Args:
        bus: The bus. Its handle may be used for other things as well, but what it publishes is for this host alone.
        servers: Addresses of NATS servers: `nats://[USER:PASSWORD@]HOST[:PORT]`, with commas between them or as a list.
        cluster: The name that all hosts of a cluster share; None: the bus's.
        host: The name of this host, which no other one has; None: the machine's.
        topics: Patterns of the topics whose events leave this host; none: all.
        host_grace_s: For how long events wait for a host that is away; then they are skipped.
        while_away: "wait", or "skip" what is for a host that is away at once.
        network: Other arguments of `NatsMailboxes`: `creds`, `tls_ca`, `tls_cert`, `tls_key`, `replicas` and so on.

    Raises:
        UsageError: An argument is not valid, or the package nats-py is not installed.
    """

    _kind = "bridge"
    _thread_name = "eventbus_mp bridge"
    _log = log

    def __init__(
        self,
        bus: EventBus,
        servers: str | Sequence[str],
        *,
        cluster: str | None = None,
        host: str | None = None,
        topics: Sequence[str] = (),
        host_grace_s: float = 300.0,
        while_away: str = "wait",
        **network: Any,
    ) -> None:
        self._bus = checked_bus("bus", bus)
        self.settings = BridgeSettings(
            cluster=cluster if cluster is not None else bus.name,
            host=host if host is not None else default_host(),
            topics=tuple(topics),
            host_grace_s=host_grace_s,
            while_away=while_away,
        )
        super().__init__(f"the bridge of bus {bus.name!r}")
        self._servers = servers
        self._network = network
        self._life = os.urandom(8)
        self._hub: Hub | None = None
        self._counts = (0, 0, 0)
        """Of the hubs that have ended: events sent and imported, and letters that were broken."""
        self._mailboxes: Mailboxes | None = None
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._make_mailboxes()  # What is wrong with the arguments is said here.

    def _make_mailboxes(self) -> NatsMailboxes:
        return NatsMailboxes(self._servers, self.settings.cluster, self.settings.host, **self._network)

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting until it is done; a signal handler may call it."""
        self._stopping.set()
        self._call(lambda hub: hub.end())

    def _call(self, what: Callable[[Hub], None]) -> None:
        loop, hub = self._loop, self._hub
        if loop is not None and hub is not None:
            loop.call_soon_threadsafe(what, hub)

    def status(self) -> BridgeStatus:
        """What it does and has done. Never blocks."""
        hub, mailboxes, counts = self._hub, self._mailboxes, self._counts
        if hub is None or mailboxes is None:
            return BridgeStatus(self._state, False, *counts)
        sent, imported, broken = map(sum, zip(counts, hub.counts, strict=True))
        return BridgeStatus(self._state, mailboxes.is_connected, sent, imported, broken, hub.hosts())

    # --- on the thread ---

    def _begin_anew(self) -> None:
        self._stopping.clear()

    def _work(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                try:
                    await self._bridge()
                except (UsageError, MailboxesRefused):
                    raise  # Somebody has to change something first.
                except EventBusError as error:
                    if not self._is_settled.is_set() and not isinstance(error, ManagerLost):
                        raise
                    self._state = "waiting"
                    log.warning("the bridge begins anew: %s", error)
                    await self._pause(AGAIN_S)
        finally:
            self._loop = None

    async def _pause(self, seconds: float) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._stopping.wait, seconds)

    async def _bridge(self) -> None:
        """Bridge until it is stopped, or until the bus or the network is lost."""
        mailboxes = self._make_mailboxes()
        await mailboxes.open()
        side: BusSide | None = None
        try:
            side = await self._open_bus()
            self._mailboxes = mailboxes
            hub = self._hub = Hub(self.settings, mailboxes, side, self._life)
            side.start(hub)
            self._state = "bridging"
            self._is_settled.set()
            if not self._stopping.is_set():
                await hub.run()
        finally:
            if self._hub is not None:
                sent, imported, broken = map(sum, zip(self._counts, self._hub.counts, strict=True))
                self._counts = sent, imported, broken
            self._hub = self._mailboxes = None
            if side is not None:
                await asyncio.get_running_loop().run_in_executor(None, side.end)
            await mailboxes.close()

    async def _open_bus(self) -> BusSide:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + OTHER_ENDS_S
        while True:
            try:
                return BusSide(self._bus)
            except UsageError:
                if loop.time() > until_s or self._stopping.is_set():
                    raise
            await self._pause(0.05)
