"""The mailboxes of a cluster's hosts on NATS JetStream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eventbus_mp.addons.bridge.letters import (
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
from eventbus_mp.addons.bridge.nats_link import tls_context
from eventbus_mp.addons.bridge.nats_session import NatsSession
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

PART_HEAD_BYTES = 4096
PART_ALIGNMENT = 64
"""So that parts that are written behind each other keep what is in them aligned."""
_FULL = {10077, 10047}  # A subject or the stream has as much as it may; the server's store is full.
_TOO_LARGE = {10054}


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
        self._connect_timeout_s = connect_timeout_s
        self._streams = Streams(cluster, replicas, letters_max, letter_bytes_max, ack_wait_s)
        self._session = NatsSession(
            servers,
            self._streams,
            host,
            creds=creds,
            tls=tls_context(tls_ca, tls_cert, tls_key),
            ack_timeout_s=ack_timeout_s,
        )

    @property
    def is_connected(self) -> bool:
        """Whether a server is there at this moment."""
        return self._session.link.is_connected

    @property
    def part_bytes(self) -> int:
        """How large a part of something larger may be: a multiple of 64, with room for a head of 4 KiB."""
        return (self._letter_bytes_max - PART_HEAD_BYTES) // PART_ALIGNMENT * PART_ALIGNMENT

    async def open(self) -> None:
        """Connect, and make the stream, this host's mailboxes and the bucket of states if they are not there.

        Raises:
            MailboxesUnreachable: No server has done that within `connect_timeout_s`.
            MailboxesRefused: One has answered and refuses; the text says what to change.
        """
        try:
            await self._session.open(self._connect_timeout_s)
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
        limit = self._letter_bytes_max
        if len(data) > limit:
            raise LetterTooLarge(f"a letter of {len(data)} bytes to {host!r} is over {limit}; send it in parts")
        answer = await self._session.lanes[checked_box(box)].ask(self._streams.box(box, host), data)
        if error := answer.get("error"):
            raise _refusal(host, error)
        return self._session.stream_since + int(answer["seq"])

    async def pull(self, box: str) -> list[Letter]:
        """The letters that have come to this host, in order; waits until there is one. One caller at a time a box.

        Raises:
            MailboxesClosed: They were closed, or closed themselves for good.
            MailboxesRefused: This host may not read its own mailbox.
        """
        return await self._session.inboxes[checked_box(box)].pull()

    async def settle(self, letter: Letter, how: str) -> None:
        """Say what became of a letter: "done", "working" (`ack_wait_s` anew), or "broken" (never again, to nobody).

        "done" returns when the server has noted it, or has not said so within 3 s: then the letter does not come again.
        (A server that is killed can forget what it noted in the last seconds. These mailboxes remember their 65,536
        last letters, and do not give them out again; others, that are opened later, would.) The others return at once,
        and can be lost. All but "working" wait while no server is there.
        """
        if how == "done":
            await self._session.settle(letter)
        else:
            await self._session.inboxes["to"].settle(letter, how)

    async def floor(self) -> int:
        """Up to which position all letters of this host's box "to" are settled, for good.

        Waits while no server is there. Raises as `open`.
        """
        return await self._session.floor(self._host)

    async def shout(self, state: bytes) -> None:
        """Say this host's state, in place of what it said before; return when the server has it.

        It is said again if the server has lost it. Raises as `store`.
        """
        answer = await self._session.shout(state)
        if error := answer.get("error"):
            raise _refusal(self._host, error)

    def hear(self, heard: Callable[[str, bytes | None], None]) -> None:
        """Call `heard(host, state)` on the loop for what each host has said, this one as well, and for each change.

        None: the bucket no longer has it. What changes while no server is there is heard later. An error of
        `heard` ends the mailboxes.
        """
        self._session.hear(heard)

    async def close(self) -> None:
        """Give back what nobody pulled, and end. All calls that wait raise `MailboxesClosed`. May be called twice."""
        await self._session.close()

    @property
    def _letter_bytes_max(self) -> int:
        """What this cluster's stream takes, and this server."""
        return min(self._session.link.payload_bytes_max, self._streams.letter_bytes_max)


def _refusal(host: str, error: dict[str, Any]) -> MailboxError:
    code, text = error.get("err_code", 0), error.get("description", error)
    if code in _FULL:
        return MailboxFull(host, f"the mailbox of {host!r} is full: {text} ({code}); its host has to settle letters")
    if code in _TOO_LARGE:
        return LetterTooLarge(f"a letter to {host!r} is too large: {text} ({code}); send it in parts")
    return MailboxesRefused(f"the NATS server does not store a letter to {host!r}: {text} ({code})")
