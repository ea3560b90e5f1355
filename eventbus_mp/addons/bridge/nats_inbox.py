"""The letters of one of this host's mailboxes, asked for by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from eventbus_mp.addons.bridge.letters import Letter, MailboxError
from eventbus_mp.addons.bridge.nats_link import NatsLink

__all__ = ["NatsInbox", "Settled"]

ASKED_MAX = 256
BYTES_MAX = 16 << 20
"""How many letters, and of what size, are asked for at a time; asked again when half of them have come."""
HEARTBEAT_S = 1
SILENCE_S = 3
"""A request dies with the server that had it, and nobody says so; then it also sends no heartbeats."""
EXPIRES_S = 30
SETTLED_MAX = 65_536
_NANOSECONDS = 1_000_000_000
_ACK = "$JS.ACK."
_WORDS = {"working": b"+WPI", "broken": b"+TERM"}


class Settled:
    """The last letters that were settled, and by which token. A server that was killed may give them out again."""

    def __init__(self) -> None:
        self._tokens: dict[int, str] = {}

    def add(self, position: int, token: str) -> None:
        self._tokens[position] = token
        if len(self._tokens) > SETTLED_MAX:
            del self._tokens[next(iter(self._tokens))]

    def token(self, position: int) -> str | None:
        return self._tokens.get(position)


class NatsInbox:
    """Asks for letters and keeps those that have come until somebody takes them.

    `fetch` of the client makes a task, a uuid and a timeout for each letter, 22 us; this is 5 us.

    Args:
        link: The connection.
        box: "to" or "back".
        next: The subject to ask at.
        settled: Letters that are not to come again.
        on_again: Called with the token by which a letter was settled, and the one under which it has come again.
        on_lost: Called when the consumer may not be there; somebody has to `ask_anew`.
    """

    def __init__(
        self,
        link: NatsLink,
        box: str,
        next: str,
        *,
        settled: Settled,
        on_again: Callable[[str, str], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._link, self._box, self._next = link, box, next
        self._settled, self._on_again, self._on_lost = settled, on_again, on_lost
        self._letters: list[Letter] = []
        self._has_come = asyncio.Event()
        self._subject = ""
        self._asking = 0  # The last part of the subject that answers go to: what comes for a former one is history.
        self._asked = 0
        self._heard_at = 0.0
        self._failure: MailboxError | None = None
        self.stream_since = 0
        """What is added to the numbers of letters, so that those of a stream that was made anew are higher."""

    async def begin(self) -> None:
        """Listen, and ask for the first letters."""
        subject, _ = await self._link.listen(f"{self._box}.*", self._receive)
        self._subject = subject[:-1]
        await self.ask_anew()

    async def ask_anew(self) -> None:
        """Forget what was asked: there is a new connection, or silence.

        A letter that comes for what was asked before is as good as any.
        """
        self._asking += 1
        self._asked = 0
        self._heard_at = asyncio.get_running_loop().time()
        await self._ask()

    def look(self, now: float) -> None:
        """Notice silence. Called now and then."""
        if self._asked and self._link.is_connected and now - self._heard_at > SILENCE_S:
            self._heard_at = now
            self._on_lost()

    async def pull(self) -> list[Letter]:
        """All letters that have come; waits until there is one."""
        while not self._letters:
            if self._failure is not None:
                raise self._failure
            await self._has_come.wait()
            self._has_come.clear()
        await self._ask(taken=len(self._letters))
        # No `await` from here on: letters that were taken by a call that is cancelled would be held by nobody.
        letters, self._letters = self._letters, []
        return letters

    async def settle(self, letter: Letter, how: str) -> None:
        """One small message to the server, without an answer."""
        if how != "working":
            await self._link.connected.wait()
        if self._failure is not None:
            raise self._failure
        await self._link.publish(str(letter.token), _WORDS[how])

    async def give_back(self) -> None:
        """What nobody took need not wait for its time to be over."""
        letters, self._letters = self._letters, []
        for letter in letters:
            await self._link.publish(str(letter.token), b"-NAK")

    def fail(self, error: MailboxError) -> None:
        """No letter will come any more."""
        self._failure = error
        self._has_come.set()

    async def _ask(self, taken: int = 0) -> None:
        """So that what is asked for, and what waits here, is more than half of the window."""
        count = ASKED_MAX - self._asked - len(self._letters) + taken
        if count < ASKED_MAX // 2 or not self._link.is_connected:
            return
        if self._asked == 0:
            self._heard_at = asyncio.get_running_loop().time()
        self._asked += count
        request = {
            "batch": count,
            "max_bytes": BYTES_MAX,
            "expires": int(EXPIRES_S * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * _NANOSECONDS),
        }
        await self._link.publish(self._next, json.dumps(request).encode(), f"{self._subject}{self._asking}")

    async def _receive(self, message: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if message.reply.startswith(_ACK):
            self._asked -= self._asked > 0
            position = self.stream_since + _sequence(message.reply)
            if (token := self._settled.token(position)) is not None:
                self._settled.add(position, message.reply)
                self._on_again(token, message.reply)
            else:
                self._letters.append(Letter(message.data, position, message.reply))
                self._has_come.set()
            await self._ask()
        elif message.subject == f"{self._subject}{self._asking}":
            await self._receive_status(message.headers or {})

    async def _receive_status(self, headers: dict[str, str]) -> None:
        """A request has ended: all of it, if the server does not say how much was left."""
        match headers.get("Status"):
            case "100":
                return
            case "503":
                self._on_lost()
                return
            case "409" if "Deleted" in headers.get("Description", ""):
                self._on_lost()
                return
            case _:
                self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", self._asked)))
                await self._ask()


def _sequence(reply: str) -> int:
    """The stream's sequence number of a letter. Newer servers name a domain and an account before the stream."""
    parts = reply.split(".")
    return int(parts[5] if len(parts) == 9 else parts[7])
