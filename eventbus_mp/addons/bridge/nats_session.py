"""All that a host has going on with its servers: looked after, and made good after a loss."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from eventbus_mp.addons.bridge.letters import (
    BOXES,
    Letter,
    MailboxError,
    MailboxesClosed,
    MailboxesRefused,
    MailboxesUnreachable,
)
from eventbus_mp.addons.bridge.nats_inbox import NatsInbox, Settled
from eventbus_mp.addons.bridge.nats_lane import NO_RESPONDERS, Lane
from eventbus_mp.addons.bridge.nats_link import NatsLink, closed_by, logger, not_permitted
from eventbus_mp.addons.bridge.nats_states import NatsStates
from eventbus_mp.addons.bridge.nats_streams import Streams

__all__ = ["NatsSession"]

WINDOW = 64
"""How many letters of a box are stored at the same time: with parcels of 256 KiB, 16 MiB."""
ACKS_MAX = 1024
SETTLED_TIMEOUT_S, SETTLED_PATIENCE_S = 1.0, 3.0
"""A server that was killed, and does not know that it gave the letter out, never answers its acknowledgement (2.15)."""
BEAT_S = 0.5
_ACK = b"+ACK"
_TEMPORARY = {10005, 10008, 10167}  # No node for it yet, no leader, too many requests.


class NatsSession:
    """One host on the servers of its cluster: `lanes` by which letters are stored, `inboxes` that pull, states.

    After each new connection, and when the server does not know what it should, it looks what is there, makes what is
    missing, and only then lets the rest go on. Names and configurations are those of `streams`.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        streams: Streams,
        host: str,
        *,
        creds: str | None,
        tls: ssl.SSLContext | None,
        ack_timeout_s: float,
    ) -> None:
        self._streams, self._host = streams, host
        self._trouble = "no answer"
        self._failure: MailboxError | None = None
        self._state: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._is_open = False
        self._is_lost = False
        self._is_resuming = False
        self._settled = Settled()
        self.stream_since = 0
        """When the stream was made: what is added to its numbers, so that those of another one are higher."""
        self.link = NatsLink(
            servers,
            f"_EB.{streams.cluster}.{host}",
            creds=creds,
            tls=tls,
            name=f"eventbus_mp bridge {streams.cluster}/{host}",
            on_connected=self._connected,
            on_disconnected=self._ready.clear,
            on_denied=self._denied,
            on_failed=self._fail,
        )
        self.lanes = {box: self._lane(f"stored_{box}", WINDOW, ack_timeout_s) for box in BOXES}
        self._acks = self._lane("acks", ACKS_MAX, SETTLED_TIMEOUT_S, patience_s=SETTLED_PATIENCE_S)
        self._api = self._lane("api", WINDOW, ack_timeout_s, is_about_streams=True)
        self.inboxes = {box: self._inbox(box) for box in BOXES}
        self._states = NatsStates(
            self.link,
            streams.state(""),
            lambda *watch: streams.watch(self._api, *watch),
            host=host,
            on_lost=self._lost,
            on_missing=self._shout_again,
        )

    async def open(self, timeout_s: float | None) -> None:
        """Connect, make what is missing, and begin to pull. Raises as `NatsMailboxes.open`."""
        clock = asyncio.get_running_loop().time
        began_at = clock()
        await self.link.connect(timeout_s)
        left_s = None if timeout_s is None else max(0.1, timeout_s - (clock() - began_at))
        try:
            await asyncio.wait_for(self._begin(), left_s)
        except asyncio.TimeoutError as cause:
            raise MailboxesUnreachable(
                f"a NATS server is there, but its JetStream has not made the mailboxes: {self._trouble}; "
                f"look whether {self._streams.replicas} of its servers are there and have elected a leader"
            ) from cause

    async def settle(self, letter: Letter) -> None:
        """Have it noted that the letter is done."""
        token = str(letter.token)
        self._settled.add(letter.position, token)
        await self._acks.ask(token, _ACK)

    async def floor(self, host: str) -> int:
        """Up to which position the host has settled all its letters with events."""
        return self.stream_since + await self._streams.floor(self._api, host)

    async def shout(self, state: bytes) -> dict[str, Any]:
        """Say this host's state, now and whenever the server has lost it: the server's answer."""
        self._state = state
        return await self.lanes["back"].ask(self._streams.state(self._host), state)

    def hear(self, heard: Callable[[str, bytes | None], None]) -> None:
        """Call it for the state of each host and each change."""
        self._states.hear(heard)
        if self._is_open:
            self._states.watch_anew()

    async def close(self) -> None:
        """Give back what nobody pulled, and end."""
        for inbox in self.inboxes.values():
            await inbox.give_back()
        self._fail(MailboxesClosed("these mailboxes were closed"))
        await self.link.close()
        for task in (current := list(self._tasks)):
            task.cancel()
        if current:
            await asyncio.wait(current)
        self._states.stop()

    async def _begin(self) -> None:
        for lane in self._all_lanes:
            await lane.begin()
        self._spawn(self._beat())
        await self.link.flush()
        await self._make()
        for inbox in self.inboxes.values():
            await inbox.begin()
        self._is_open = True
        self._ready.set()
        self._states.watch_anew()

    @property
    def _all_lanes(self) -> tuple[Lane, ...]:
        return (*self.lanes.values(), self._acks, self._api)

    def _lane(
        self,
        name: str,
        window: int,
        timeout_s: float,
        *,
        patience_s: float | None = None,
        is_about_streams: bool = False,
    ) -> Lane:
        return Lane(
            self.link,
            name,
            may_ask=self.link.connected if is_about_streams else self._ready,
            window=window,
            timeout_s=timeout_s,
            patience_s=patience_s,
            temporary=_TEMPORARY if is_about_streams else {*_TEMPORARY, NO_RESPONDERS},
            on_retry=self._retried,
        )

    def _inbox(self, box: str) -> NatsInbox:
        return NatsInbox(
            self.link,
            box,
            self._streams.next(box, self._host),
            settled=self._settled,
            on_again=self._settle_again,
            on_lost=self._lost,
        )

    async def _beat(self) -> None:
        """Look now and then for what was not answered."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(BEAT_S)
            self._resume()
            for lane in self._all_lanes:
                lane.look(clock())
            for inbox in self.inboxes.values():
                inbox.look(clock())
            self._states.look(clock())

    def _connected(self) -> None:
        for lane in self._all_lanes:
            lane.ask_again()
        self._resume()

    def _retried(self, code: int, text: str) -> None:
        if not self._is_open:
            self._trouble = text
        if code == NO_RESPONDERS:
            self._lost()

    def _lost(self) -> None:
        """The server does not know the stream or a consumer: it has lost its store, or somebody has removed them."""
        self._is_lost = True
        self._ready.clear()
        self._resume()

    def _resume(self) -> None:
        """After a new connection or a loss, look what is there before anything else goes on."""
        if self._is_open and self.link.is_connected and not self._ready.is_set() and not self._is_resuming:
            self._is_resuming = True
            self._spawn(self._look_and_go_on())

    async def _look_and_go_on(self) -> None:
        try:
            while self._is_lost or await self._streams.since(self._api) != self.stream_since:
                self._is_lost = False
                await self._make()
        except MailboxesRefused as error:
            # A cluster that has no leader at this moment says the same as a server without JetStream.
            self._is_lost = True
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.warning("%s", error)
            return
        finally:
            self._is_resuming = False
        if not self.link.is_connected:  # It was lost again meanwhile; the next connection begins anew.
            return
        self._ready.set()
        for inbox in self.inboxes.values():
            await inbox.ask_anew()
        self._states.watch_anew()

    async def _make(self) -> None:
        """Make what is missing. If the stream is another than before, its letters are gone, and so are our states."""
        await self._streams.make(self._api, self._host)
        since = await self._streams.since(self._api)
        if since == self.stream_since:
            return
        self.stream_since = since
        for inbox in self.inboxes.values():
            inbox.stream_since = since
        self._acks.give_up()
        self._shout_again()

    def _settle_again(self, former: str, token: str) -> None:
        """A server that was killed does not know any more that it gave the letter out, and never answers the former
        token."""
        self._acks.redirect(former, token, _ACK)

    def _shout_again(self) -> None:
        if self._state is not None:
            self._spawn(self._said_again(self._state))

    async def _said_again(self, state: bytes) -> None:
        if error := (await self.shout(state)).get("error"):
            logger.warning("NATS does not take this host's state: %s", error)

    def _denied(self, verb: str, subject: str) -> None:
        """One who may not write to one mailbox may go on with the others; else nothing goes on."""
        were_wanted = [lane.deny(subject) for lane in self._all_lanes]
        if not any(were_wanted):
            self._fail(not_permitted(verb, subject))

    def _fail(self, error: MailboxError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        for lane in self._all_lanes:
            lane.fail(error)
        for inbox in self.inboxes.values():
            inbox.fail(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="eventbus_mp bridge mailboxes")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(closed_by(error))
