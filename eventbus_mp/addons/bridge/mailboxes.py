"""The mailboxes of a cluster's hosts on NATS JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from eventbus_mp.addons.bridge.letters import (
    BOXES,
    Letter,
    LetterTooLarge,
    MailboxError,
    Mailboxes,
    MailboxesClosed,
    MailboxesRefused,
    MailboxesUnreachable,
    MailboxFull,
    checked_box,
    checked_name,
)
from eventbus_mp.addons.bridge.nats_inbox import NatsInbox, Settled
from eventbus_mp.addons.bridge.nats_lane import NO_RESPONDERS, Lane
from eventbus_mp.addons.bridge.nats_link import NatsLink, closed_by, logger, not_permitted, tls_context
from eventbus_mp.addons.bridge.nats_states import NatsStates
from eventbus_mp.addons.bridge.nats_streams import Streams

__all__ = [
    "Letter",
    "LetterTooLarge",
    "MailboxError",
    "MailboxFull",
    "Mailboxes",
    "MailboxesClosed",
    "MailboxesRefused",
    "MailboxesUnreachable",
    "NatsMailboxes",
]

ACKS_MAX = 1024
SETTLED_TIMEOUT_S, SETTLED_PATIENCE_S = 1.0, 3.0
"""A server that was killed, and does not know that it gave the letter out, never answers its acknowledgement (2.15)."""
WINDOW = 64
"""How many letters of a box are stored at the same time: with parcels of 256 KiB, 16 MiB."""
BEAT_S = 0.5
PART_HEAD_BYTES = 4096
PART_ALIGNMENT = 64
"""So that parts that are written behind each other keep what is in them aligned."""
_ACK = b"+ACK"
_FULL = {10077, 10047}  # A subject or the stream has as much as it may; the server's store is full.
_TOO_LARGE = {10054}
_TEMPORARY = {10005, 10008, 10167}  # No node for it yet, no leader, too many requests.


class NatsMailboxes:
    """The mailboxes of all hosts of a cluster, as this host sees them, over NATS JetStream (server 2.9 or later).

    Nothing blocks the event loop, to which an object of this class belongs. What a server that dies has not confirmed
    is stored again, in its order, so that a letter can be there twice.

    Args:
        servers: One address or several: `nats://[USER:PASSWORD@]HOST[:PORT]`, or `tls://...`.
        cluster: The hosts of a cluster see each other. 1 to 64 of `A-Z a-z 0-9 _ -`, as the host's name.
        host: This host; no other may have the name.
        creds: A file with the user's JWT and seed (needs the package nkeys).
        tls_ca: A file with the authorities that sign servers' certificates; None: the machine's, if the server asks
            for TLS at all.
        tls_cert: A file with our own certificate, for servers that ask for one.
        tls_key: A file with its key.
        replicas: How many of the servers keep each letter: 1, 3 or 5.
        letters_max: How many letters a mailbox holds at most; beyond them, `MailboxFull`.
        letter_bytes_max: How large a letter may be. All hosts of a cluster have to say the same of these three.
        ack_wait_s: How long a letter may be in a host's hands without a word before it is given out again.
        ack_timeout_s: After so long without the server's word that a letter is stored, it is sent again.
        connect_timeout_s: How long `open` waits for a server; None: for ever.

    Raises:
        UsageError: A name is not allowed, or a file cannot be used.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        cluster: str,
        host: str,
        *,
        creds: str | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        replicas: int = 1,
        letters_max: int = 10_000,
        letter_bytes_max: int = 1 << 20,
        ack_wait_s: float = 10.0,
        ack_timeout_s: float = 5.0,
        connect_timeout_s: float | None = 10.0,
    ) -> None:
        checked_name(cluster, "the cluster")
        checked_name(host, "the host")
        self._host = host
        self._streams = Streams(cluster, replicas, letters_max, letter_bytes_max, ack_wait_s)
        self._connect_timeout_s = connect_timeout_s
        self._trouble = "no answer"
        self._failure: MailboxError | None = None
        self._state: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._since = 0
        self._is_open = False
        self._is_lost = False
        self._is_resuming = False
        self._link = NatsLink(
            servers,
            f"_EB.{cluster}.{host}",
            creds=creds,
            tls=tls_context(tls_ca, tls_cert, tls_key),
            name=f"eventbus_mp bridge {cluster}/{host}",
            on_connected=self._connected,
            on_disconnected=self._ready.clear,
            on_denied=self._denied,
            on_failed=self._fail,
        )
        self._lanes = {box: self._lane(f"stored_{box}", WINDOW, ack_timeout_s) for box in BOXES}
        self._acks = self._lane("acks", ACKS_MAX, SETTLED_TIMEOUT_S, patience_s=SETTLED_PATIENCE_S)
        self._api = self._lane("api", WINDOW, ack_timeout_s, is_about_streams=True)
        self._settled = Settled()
        self._inboxes = {box: self._inbox(box) for box in BOXES}
        self._states = NatsStates(
            self._link,
            self._streams.state(""),
            lambda *watch: self._streams.watch(self._api, *watch),
            host=host,
            on_lost=self._lost,
            on_missing=self._shout_again,
        )

    @property
    def is_connected(self) -> bool:
        """Whether a server is there at this moment."""
        return self._link.is_connected

    @property
    def part_bytes(self) -> int:
        """How large a part of something larger may be: a multiple of 64, with room for a head of 4 KiB."""
        room = min(self._link.payload_bytes_max, self._streams.letter_bytes_max) - PART_HEAD_BYTES
        return room // PART_ALIGNMENT * PART_ALIGNMENT

    async def open(self) -> None:
        """Connect, and make the stream, this host's mailboxes and the bucket of states if they are not there.

        Raises:
            MailboxesUnreachable: No server has done that within `connect_timeout_s`.
            MailboxesRefused: One has answered and refuses; the text says what to change.
        """
        clock = asyncio.get_running_loop().time
        began_at = clock()
        try:
            await self._link.connect(self._connect_timeout_s)
            left_s = None
            if self._connect_timeout_s is not None:
                left_s = max(0.1, self._connect_timeout_s - (clock() - began_at))
            await asyncio.wait_for(self._begin(), left_s)
        except asyncio.TimeoutError as cause:
            await self.close()
            raise MailboxesUnreachable(
                f"a NATS server is there, but its JetStream has not made the mailboxes: {self._trouble}; "
                f"look whether {self._streams.replicas} of its servers are there and have elected a leader"
            ) from cause
        except BaseException:
            await self.close()
            raise

    async def store(self, box: str, host: str, data: bytes) -> int:
        """Put a letter into a mailbox; its position in the stream, when the server has stored it.

        The letters of a box leave in the order of the calls, 64 at a time. Waits while no server is there, and sends
        again what none has confirmed. A mailbox need not have an owner yet; the letter waits for it.

        Raises:
            MailboxFull: That host's mailbox, or the server's store, is full. Nothing was stored.
            LetterTooLarge: It is over `letter_bytes_max`, or what the server takes.
            MailboxesRefused: This host may not write there.
            MailboxesClosed: They were closed, or closed themselves; the letter may have been stored.
        """
        checked_name(host, "the host")
        limit = min(self._link.payload_bytes_max, self._streams.letter_bytes_max)
        if len(data) > limit:
            raise LetterTooLarge(f"a letter of {len(data)} bytes to {host!r} is over {limit}; send it in parts")
        answer = await self._lanes[checked_box(box)].ask(self._streams.box(box, host), data)
        if error := answer.get("error"):
            raise _refusal(host, error)
        return self._since + int(answer["seq"])

    async def pull(self, box: str) -> list[Letter]:
        """The letters that have come to this host, in order; waits until there is one. One caller at a time a box.

        Raises:
            MailboxesClosed: They were closed, or closed themselves for good.
            MailboxesRefused: This host may not read its own mailbox.
        """
        return await self._inboxes[checked_box(box)].pull()

    async def settle(self, letter: Letter, how: str) -> None:
        """Say what became of a letter: "done", "working" (`ack_wait_s` anew), or "broken" (never again, to nobody).

        "done" returns when the server has noted it, or has not said so within 3 s: then the letter does not come again.
        (A server that is killed can forget what it noted in the last seconds. These mailboxes remember their 65,536
        last letters, and do not give them out again; others, that are opened later, would.) The others return at once,
        and can be lost. All but "working" wait while no server is there.
        """
        if how == "done":
            token = str(letter.token)
            self._settled.add(letter.position, token)
            await self._acks.ask(token, _ACK)
        else:
            await self._inboxes["to"].settle(letter, how)

    async def shout(self, state: bytes) -> None:
        """Say this host's state, in place of what it said before; return when the server has it.

        It is said again if the server has lost it. Raises as `store`.
        """
        self._state = state
        answer = await self._lanes["back"].ask(self._streams.state(self._host), state)
        if error := answer.get("error"):
            raise _refusal(self._host, error)

    def hear(self, heard: Callable[[str, bytes | None], None]) -> None:
        """Call `heard(host, state)` on the loop for what each host has said, this one as well, and for each change.

        None: the bucket no longer has it. What changes while no server is there is heard later. An error of
        `heard` ends the mailboxes.
        """
        self._states.hear(heard)
        if self._is_open:
            self._states.watch_anew()

    async def close(self) -> None:
        """Give back what nobody pulled, and end. All calls that wait raise `MailboxesClosed`. May be called twice."""
        for inbox in self._inboxes.values():
            await inbox.give_back()
        self._fail(MailboxesClosed("these mailboxes were closed"))
        await self._link.close()
        for task in (current := list(self._tasks)):
            task.cancel()
        if current:
            await asyncio.wait(current)
        self._states.stop()

    # --- inside ---

    async def _begin(self) -> None:
        for lane in self._all_lanes:
            await lane.begin()
        self._spawn(self._beat())
        await self._link.flush()
        await self._make()
        for inbox in self._inboxes.values():
            await inbox.begin()
        self._is_open = True
        self._ready.set()
        self._states.watch_anew()

    @property
    def _all_lanes(self) -> tuple[Lane, ...]:
        return (*self._lanes.values(), self._acks, self._api)

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
            self._link,
            name,
            may_ask=self._link.connected if is_about_streams else self._ready,
            window=window,
            timeout_s=timeout_s,
            patience_s=patience_s,
            temporary=_TEMPORARY if is_about_streams else {*_TEMPORARY, NO_RESPONDERS},
            on_retry=self._retried,
        )

    def _inbox(self, box: str) -> NatsInbox:
        return NatsInbox(
            self._link,
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
            for inbox in self._inboxes.values():
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
        if self._is_open and self._link.is_connected and not self._ready.is_set() and not self._is_resuming:
            self._is_resuming = True
            self._spawn(self._look_and_go_on())

    async def _look_and_go_on(self) -> None:
        try:
            while self._is_lost or await self._streams.since(self._api) != self._since:
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
        self._ready.set()
        for inbox in self._inboxes.values():
            await inbox.ask_anew()
        self._states.watch_anew()

    async def _make(self) -> None:
        """Make what is missing. If the stream is another than before, its letters are gone, and so are our states."""
        await self._streams.make(self._api, self._host)
        since = await self._streams.since(self._api)
        if since == self._since:
            return
        self._since = since
        for inbox in self._inboxes.values():
            inbox.stream_since = since
        self._acks.give_up()
        self._shout_again()

    def _settle_again(self, former: str, token: str) -> None:
        """A server that was killed does not know any more that it gave the letter out, and never answers the former
        token."""
        self._acks.redirect(former, token, _ACK)

    def _shout_again(self) -> None:
        if self._state is not None:
            self._spawn(self.shout(self._state))

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
        for inbox in self._inboxes.values():
            inbox.fail(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="eventbus_mp bridge mailboxes")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(closed_by(error))


def _refusal(host: str, error: dict[str, Any]) -> MailboxError:
    code, text = error.get("err_code", 0), error.get("description", error)
    if code in _FULL:
        return MailboxFull(host, f"the mailbox of {host!r} is full: {text} ({code}); its host has to settle letters")
    if code in _TOO_LARGE:
        return LetterTooLarge(f"a letter to {host!r} is too large: {text} ({code}); send it in parts")
    return MailboxesRefused(f"the NATS server does not store a letter to {host!r}: {text} ({code})")
