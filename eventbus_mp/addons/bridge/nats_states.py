"""What each host says of itself, as everybody hears it: the present states, and each change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from eventbus_mp.addons.bridge.nats_link import NatsLink

__all__ = ["NatsStates"]

HEARTBEAT_S = 2
SILENCE_S = 7
FORGET_AFTER_S = 60
"""A watch of ours that nobody listens to any more."""

Watch = Callable[[str, str, float, float], Awaitable[int | None]]


class NatsStates:
    """Watches the bucket, with a watch that is made anew after a new connection, silence, or a gap.

    The client's own watch ends for good, and without a word, with the server that had it.

    Args:
        link: The connection.
        prefix: What stands in front of a host's name in the subject of its state.
        watch: Makes a watch: (name, deliver to, heartbeat in s, forget after in s) -> how many states there are, or
            None if there is no bucket.
        on_lost: Called if there is no bucket.
        on_missing: Called if the bucket does not have this host's own state, after it was said.
        host: This host.
    """

    def __init__(
        self,
        link: NatsLink,
        prefix: str,
        watch: Watch,
        *,
        host: str,
        on_lost: Callable[[], None],
        on_missing: Callable[[], None],
    ) -> None:
        self._link, self._prefix, self._make_watch = link, prefix, watch
        self._host, self._on_lost, self._on_missing = host, on_lost, on_missing
        self._heard: Callable[[str, bytes | None], None] | None = None
        self._known: dict[str, tuple[str, str]] = {}  # host -> the sequence and the time of what it said last
        self._present: set[str] = set()
        self._left = 0  # of the present states, which come first
        self._number = 0
        self._expected = 1
        self._heard_at = 0.0
        self._subscription: Any = None
        self._task: asyncio.Task[None] | None = None

    def hear(self, heard: Callable[[str, bytes | None], None]) -> None:
        self._heard = heard

    def watch_anew(self) -> None:
        """Begin, or begin again, in a task of its own."""
        if self._heard is not None:
            self.stop()
            self._task = asyncio.create_task(self._watch(), name="eventbus_mp bridge states")

    def look(self, now: float) -> None:
        """Watch anew after silence. Called now and then."""
        if self._task is not None and self._task.done() and self._link.is_connected:
            if not self._task.cancelled() and (error := self._task.exception()) is not None:
                raise error
            if now - self._heard_at > SILENCE_S:
                self.watch_anew()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self) -> None:
        self._number += 1
        number = self._number
        former, self._subscription = self._subscription, None
        if former is not None:
            await former.unsubscribe()
        self._expected, self._left, self._present = 1, -1, set()

        async def receive(message: Any) -> None:
            if number == self._number:
                self._receive(message)

        subject, self._subscription = await self._link.listen(f"states.{number}", receive)
        name = "_".join(subject.split(".")[-3:])
        count = await self._make_watch(name, subject, HEARTBEAT_S, FORGET_AFTER_S)
        self._heard_at = asyncio.get_running_loop().time()
        if count is None:
            self._on_lost()
        elif count == 0:
            self._all_present()

    def _receive(self, message: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        if message.subject.startswith(self._prefix):
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence in the stream>.<in the consumer>.<time>.<left>
            sequence, position, stored_at, left = message.reply.split(".")[-4:]
            if int(position) != self._expected:
                self.watch_anew()
                return
            self._expected += 1
            self._take(message, (sequence, stored_at), headers)
            if left == "0" and self._left != 0:
                self._all_present()
        elif int(headers.get("Nats-Last-Consumer", self._expected - 1)) != self._expected - 1:
            self.watch_anew()

    def _take(self, message: Any, revision: tuple[str, str], headers: dict[str, str]) -> None:
        host = message.subject.removeprefix(self._prefix)
        is_gone = "KV-Operation" in headers or "Nats-Marker-Reason" in headers
        if is_gone:
            self._present.discard(host)
            if self._known.pop(host, None) is not None:
                self._tell(host, None)
            return
        self._present.add(host)
        if self._known.get(host) != revision:
            self._known[host] = revision
            self._tell(host, message.data)

    def _all_present(self) -> None:
        """What was known and is not there any more was removed while nobody looked."""
        self._left = 0
        for host in [host for host in self._known if host not in self._present]:
            del self._known[host]
            self._tell(host, None)
        if self._host not in self._present:
            self._on_missing()

    def _tell(self, host: str, state: bytes | None) -> None:
        if self._heard is not None:
            self._heard(host, state)
