"""Puts letters into other hosts' mailboxes, one after the other, and knows how far it has come. For one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

from eventbus_mp.addons.bridge.letters import LetterTooLarge, Mailboxes, MailboxFull

__all__ = ["Courier"]

log = logging.getLogger("eventbus_mp.bridge")

FULL_RETRY_S = 0.5
WAITING_BYTES_MAX = 16 << 20
"""Of letters to one host that are not stored: beyond that, no more events are taken for it from the bus."""


class Courier:
    """Args:
    mailboxes: Those of the cluster, open.
    on_room: Called with a host's name when there is room for more letters to it again.
    on_failed: Called with an error that ends the mailboxes.
    """

    def __init__(
        self, mailboxes: Mailboxes, on_room: Callable[[str], None], on_failed: Callable[[BaseException], None]
    ) -> None:
        self._mailboxes = mailboxes
        self._on_room = on_room
        self._on_failed = on_failed
        self._positions: dict[str, int] = defaultdict(int)
        self._waiting_bytes: dict[str, int] = defaultdict(int)
        self._storing: dict[str, set[asyncio.Future[int]]] = defaultdict(set)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stored = 0
        """How many letters with events, or about them, were stored."""
        self.full: set[str] = set()
        """Hosts whose mailbox takes no more at this moment."""

    def has_room(self, host: str) -> bool:
        """Whether events may be taken for this host."""
        return host not in self.full and self._waiting_bytes[host] < WAITING_BYTES_MAX

    def send(self, box: str, host: str, data: bytes) -> asyncio.Task[int]:
        """Store a letter, after those of the calls before; the task's result is its position in the mailbox."""
        task = self.spawn(self._store(box, host, data))
        if box == "to":
            self._waiting_bytes[host] += len(data)
            self._storing[host].add(task)
            task.add_done_callback(lambda _: self._stored(host, len(data), task))
        return task

    async def flushed(self, host: str) -> int:
        """Wait until all letters with events to this host that were sent before are stored, each copy of them: the
        position of the last."""
        if storing := [task for task in self._storing[host] if not task.done()]:
            await asyncio.wait(storing)
        return self._positions[host]

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run this beside the others; its error ends everything."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Give up what is not stored."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _store(self, box: str, host: str, data: bytes) -> int:
        while True:
            try:
                position = await self._mailboxes.store(box, host, data)
            except MailboxFull as error:
                if host not in self.full:
                    self.full.add(host)
                    log.warning("%s: what is for it waits here", error)
                await asyncio.sleep(FULL_RETRY_S)
            except LetterTooLarge:
                log.exception("a letter to %s was lost", host)
                return 0
            else:
                self.full.discard(host)
                self.stored += 1
                return position

    def _stored(self, host: str, nbytes: int, task: asyncio.Task[int]) -> None:
        had_room = self.has_room(host)
        self._waiting_bytes[host] -= nbytes
        self._storing[host].discard(task)
        if not task.cancelled() and task.exception() is None:
            self._positions[host] = max(self._positions[host], task.result())
        if not had_room and self.has_room(host):
            self._on_room(host)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failed(error)
