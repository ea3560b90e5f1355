"""Questions to the server in their order, each repeated until it is answered: how letters are stored."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from eventbus_mp.addons.bridge.letters import LetterTooLarge, MailboxError
from eventbus_mp.addons.bridge.nats_link import NatsLink, not_permitted

__all__ = ["NO_RESPONDERS", "Lane"]

NO_RESPONDERS = 503
"""Nobody listens to the subject: no such stream, no JetStream, or none of its nodes leads at this moment."""
RETRY_S = 0.25


class _Question:
    __slots__ = ("answered", "asked_at", "begun_at", "data", "number", "subject")

    def __init__(self, number: int, subject: str, data: bytes, answered: asyncio.Future[dict[str, Any]]) -> None:
        self.number = number
        self.subject = subject
        self.data = data
        self.answered = answered
        self.begun_at = 0.0  # when it was asked for the first time
        self.asked_at = 0.0


class Lane:
    """Questions that leave in the order of the calls, a window of them at a time.

    An answer can be lost: with its connection, or with a server. Then the question is asked again, so that it can be
    heard twice; after a new connection all that are open are asked again in their order, and only then what is new.

    Args:
        may_ask: Set while there is somebody to ask.
        window: How many may be unanswered at a time.
        timeout_s: After so long without an answer, ask again.
        patience_s: After so long without an answer, answer `NO_RESPONDERS`; never, if it is None.
        temporary: Errors of the server that pass; after them, ask again as well.
        on_retry: Called with the number and the text of such an error.
    """

    def __init__(
        self,
        link: NatsLink,
        name: str,
        *,
        may_ask: asyncio.Event,
        window: int,
        timeout_s: float,
        patience_s: float | None = None,
        temporary: Collection[int],
        on_retry: Callable[[int, str], None],
    ) -> None:
        self._link, self._name, self._may_ask = link, name, may_ask
        self._window, self._timeout_s, self._patience_s = window, timeout_s, patience_s
        self._temporary, self._on_retry = temporary, on_retry
        self._numbers = itertools.count()
        self._waiting: deque[_Question] = deque()
        self._open: dict[int, _Question] = {}
        self._may_write = asyncio.Event()
        self._reply = ""
        self._failure: MailboxError | None = None
        self._writer: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Listen for answers, and begin to ask."""
        subject, _ = await self._link.listen(f"{self._name}.*", self._receive)
        self._reply = subject[:-1]
        self._writer = asyncio.create_task(self._write(), name=f"eventbus_mp bridge {self._name}")

    def ask(self, subject: str, data: bytes) -> asyncio.Future[dict[str, Any]]:
        """The server's answer, when it comes. A question whose future was cancelled is not repeated."""
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            answered.set_exception(self._failure)
            return answered
        self._waiting.append(_Question(next(self._numbers), subject, data, answered))
        self._may_write.set()
        return answered

    def redirect(self, former: str, subject: str, data: bytes) -> None:
        """Ask somebody else, as the former one is not going to answer; at once, if it has not yet."""
        found = [item for item in (*self._open.values(), *self._waiting) if item.subject == former]
        for item in found:
            item.subject = subject
        self._put_back([item for item in found if item.number in self._open])
        if not found:
            self.ask(subject, data)

    def ask_again(self) -> None:
        """There is a new connection: nothing that was asked over the former one is going to be answered."""
        self._put_back(list(self._open.values()))

    def look(self, now: float) -> None:
        """Ask again what was not answered in time. Called now and then."""
        if not self._may_ask.is_set():
            return
        if self._patience_s is not None:
            for item in [item for item in self._open.values() if now - item.begun_at > self._patience_s]:
                self._answer(item, _nobody())
        self._put_back([item for item in self._open.values() if now - item.asked_at > self._timeout_s])

    def give_up(self) -> None:
        """Those whom the open questions are for are gone: answer `NO_RESPONDERS`."""
        for item in [*self._open.values(), *self._waiting]:
            self._answer(item, _nobody())

    def deny(self, subject: str) -> bool:
        """Nothing may be published to this subject, which is in small letters: whether anybody wanted to."""
        found = [item for item in (*self._open.values(), *self._waiting) if item.subject.lower() == subject]
        for item in found:
            self._fail(item, not_permitted("publish", item.subject))
        return bool(found)

    def fail(self, error: MailboxError) -> None:
        """Nothing will be answered any more."""
        self._failure = error
        for item in (*self._open.values(), *self._waiting):
            self._fail(item, error)
        self._waiting.clear()
        if self._pause is not None:
            self._pause.cancel()
        if self._writer is not None:
            self._writer.cancel()

    async def _write(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._may_write.wait()
            await self._may_ask.wait()
            if not self._waiting or len(self._open) >= self._window or self._pause is not None:
                self._may_write.clear()
                continue
            item = self._waiting.popleft()
            if item.answered.done():
                continue
            if len(item.data) > self._link.payload_bytes_max:  # Another server than before.
                self._fail(item, _too_large(item, self._link.payload_bytes_max))
                continue
            item.asked_at = clock()
            item.begun_at = item.begun_at or item.asked_at
            self._open[item.number] = item
            await self._link.publish(item.subject, item.data, f"{self._reply}{item.number}")

    async def _receive(self, message: Any) -> None:
        number = int(message.subject.rpartition(".")[2])
        item = self._open.get(number)
        if item is None or item.answered.done():  # It was asked twice, or is no longer wanted.
            self._close(number)
            return
        if message.data:
            answer = json.loads(message.data)
        elif status := (message.headers or {}).get("Status"):
            answer = {"error": {"err_code": int(status)}}
        else:
            answer = {}  # That a letter was acknowledged is noted.
        code = answer["error"].get("err_code", 0) if "error" in answer else 0
        if code in self._temporary:
            self._put_back([item])
            self._wait_a_moment()
            self._on_retry(code, str(answer["error"].get("description", "nobody answers")))
            return
        self._answer(item, answer)

    def _answer(self, item: _Question, answer: dict[str, Any]) -> None:
        if not item.answered.done():
            item.answered.set_result(answer)
        self._close(item.number)

    def _close(self, number: int) -> None:
        self._open.pop(number, None)
        if self._waiting:
            self._may_write.set()

    def _fail(self, item: _Question, error: MailboxError) -> None:
        self._open.pop(item.number, None)
        if not item.answered.done():
            item.answered.set_exception(error)

    def _put_back(self, items: list[_Question]) -> None:
        """In front of what was not asked yet, in the order of the calls."""
        if not items:
            return
        for item in items:
            del self._open[item.number]
        wanted = (item for item in (*items, *self._waiting) if not item.answered.done())
        self._waiting = deque(sorted(wanted, key=lambda item: item.number))
        self._may_write.set()

    def _wait_a_moment(self) -> None:
        if self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(RETRY_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._may_write.set()


def _nobody() -> dict[str, Any]:
    return {"error": {"err_code": NO_RESPONDERS}}


def _too_large(item: _Question, bytes_max: int) -> LetterTooLarge:
    return LetterTooLarge(
        f"a letter of {len(item.data)} bytes to {item.subject} is over the {bytes_max} that the NATS server takes; "
        "send it in parts, or raise max_payload there"
    )
