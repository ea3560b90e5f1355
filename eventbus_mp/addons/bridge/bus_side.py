"""The bus, as the bridge's event loop sees it: three threads that may block, and calls that never do."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Protocol

from eventbus_mp import EventBus, Receipt
from eventbus_mp.addons.bridge.fields import Target
from eventbus_mp.addons.bridge.inward import Import
from eventbus_mp.addons.bridge.publisher import Publisher, Teller
from eventbus_mp.addons.bridge.registry import Registry
from eventbus_mp.addons.bridge.state import RemoteSubscriber, why_unreadable
from eventbus_mp.addons.bridge.taker import Place, Round, Taker
from eventbus_mp.addons.bridge.targets import target_of

__all__ = ["BusSide", "Listener"]

log = logging.getLogger("eventbus_mp.bridge")

RECEIPTS = "eventbus_mp bridge"
"""The name under which the bus keeps receipts for bridges."""


class Listener(Protocol):
    """What hears of the bus, on the event loop; hub.py has it."""

    def take_round(self, found: Round) -> None: ...
    def take_receipts(self, receipts: Sequence[Receipt]) -> None: ...
    def take_refused(self, tags: Iterable[bytes], reason: str) -> None: ...
    def take_registry(self, subscribers: Sequence[RemoteSubscriber], topics: Sequence[str]) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class BusSide:
    """Made on the event loop; makes the bus's receipts, which one process at a time has.

    Args:
        bus: The bus, connected.

    Raises:
        UsageError: Another bridge of this bus is running.
    """

    def __init__(self, bus: EventBus) -> None:
        self._loop = asyncio.get_running_loop()
        self.life = hashlib.blake2b(bus.life.encode(), digest_size=8).digest()
        self.unit = bus.config.time_unit
        self.began_ms = int(time.time() * 1e3)
        self._receipts = bus.receipts(RECEIPTS)
        self.kept = self._receipts.kept
        """The tags of what bridges before this one have imported, and what is not confirmed. All of it has to be known
        before the first letter is read, which may bring some of it again."""
        self._listener: Listener | None = None
        self._taker = Taker(bus, self._post_round, self._post_registry, self._post_failure)
        self._publisher = Publisher(bus, self._receipts, self._post_refused, self._post_failure)
        self._teller = Teller(self._receipts, self._post_receipts, self._post_failure)

    def start(self, listener: Listener) -> None:
        """Begin to tell what comes."""
        self._listener = listener
        for thread in (self._taker, self._publisher, self._teller):
            thread.start()

    def end(self) -> None:
        """Hand back what is unsettled, and end the threads. Blocks until they have."""
        if self._listener is not None:
            for thread in (self._taker, self._publisher, self._teller):
                thread.end()
        self._receipts.close()

    # --- out ---

    def host(self, wanted: Mapping[Place, list[str]]) -> None:
        """Host these subscribers of other hosts, and no others."""
        self._taker.host(wanted)

    def settle(self, host: str, target: Target, ranges: Sequence[tuple[int, int]], outcome: str, reason: str) -> None:
        """Settle deliveries of this subscriber, of this host's or (of scope "cluster") of the cluster's."""
        self._taker.settle((host, target), ranges, outcome, reason)

    def settled(self) -> Awaitable[None]:
        """Done when all that was to be settled until now is."""
        return asyncio.wrap_future(self._taker.settled(), loop=self._loop)

    def resend(self, host: str | None, target: Target, sequences: Sequence[int]) -> None:
        """Give out these deliveries once more, if they are unsettled."""
        self._taker.resend((host, target), sequences)

    def pause(self, host: str, *, is_paused: bool) -> None:
        """Take no more deliveries for this host, or go on."""
        self._taker.pause(host, is_paused=is_paused)

    def skip(self, host: str, reason: str, *, only_expired: bool) -> None:
        """Skip what was taken for this host: all of it, or what has a deadline that is over."""
        self._taker.skip(host, reason, only_expired=only_expired)

    # --- in ---

    def publish(self, imports: Sequence[Import]) -> None:
        """Publish these events, each with a receipt of its tag."""
        self._publisher.publish(imports)

    def register(self, topics: Sequence[str]) -> None:
        """Register these topics, as other hosts have them."""
        self._publisher.register(topics)

    def confirm(self, tags: Sequence[bytes]) -> None:
        """Have these receipts forgotten."""
        self._publisher.confirm(tags)

    # --- on the threads ---

    def _post(self, call: object, *arguments: object) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)  # type: ignore[arg-type]

    def _post_round(self, found: Round) -> None:
        assert self._listener is not None
        self._post(self._listener.take_round, found)

    def _post_registry(self, registry: Registry) -> None:
        assert self._listener is not None
        shared = []
        for item in registry.shared:
            found = RemoteSubscriber(*target_of(item.key), list(item.patterns), item.scope)
            if problem := why_unreadable(found):
                log.error("subscriber %s is not known to other hosts: %s", item.key.text, problem)
            else:
                shared.append(found)
        self._publisher.forget_topics()
        self._post(self._listener.take_registry, shared, registry.topics)

    def _post_receipts(self, receipts: list[Receipt]) -> None:
        assert self._listener is not None
        self._post(self._listener.take_receipts, receipts)

    def _post_refused(self, tags: Sequence[bytes], reason: str) -> None:
        assert self._listener is not None
        self._post(self._listener.take_refused, tags, reason)

    def _post_failure(self, error: BaseException) -> None:
        assert self._listener is not None
        self._post(self._listener.fail, error)
