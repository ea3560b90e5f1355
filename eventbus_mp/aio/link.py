"""A link: `Connection`, and tasks that wait for what comes over it.

Its methods have the names of those of `Connection` that block, and do the same for a task, so `run` can do the steps of
any call (client/steps.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.aio.loops import Future
from eventbus_mp.aio.transport import LoopTransportLike
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.steps import Steps
from eventbus_mp.errors import EventBusError, UsageError
from eventbus_mp.geometry import WAIT_S_MAX
from eventbus_mp.protocol.requests import Request

__all__ = ["Link"]

T = TypeVar("T")

CALLS_IN_A_ROW = 256
"""How many calls may end without the loop having had a turn. One costs 10 us and more, as much as three events."""


class Link:
    """Args:
    connection: A new connection, over `transport`.
    transport: Whose loop is that of all tasks that call this link.
    """

    def __init__(self, connection: Connection, transport: LoopTransportLike) -> None:
        self.connection = connection
        self.transport = transport
        self.loop = transport.loop
        self._protocol = connection.protocol
        self._replies: dict[int, Future] = {}
        """Number of a request -> who waits for its reply."""
        self._conditions: dict[Future, Callable[[], Any]] = {}
        """Who waits for something else -> what for."""
        self.calls_left = CALLS_IN_A_ROW
        """Until the loop gets a turn; see `take_turn`."""
        transport.after_reading = self._look

    def check_loop(self) -> None:
        """Refuse a caller that is not in the loop of the link.

        Raises:
            UsageError: It runs in another loop.
        """
        if not self.loop.is_here():
            raise UsageError(
                f"this handle of bus {self.connection.bus!r} was connected in another event loop; close a handle "
                "before its loop ends, and make one for each loop"
            )

    # --- steps ---

    async def run(self, steps: Steps[T]) -> T:
        """Do the steps of a call, as `Connection.run`; a cancellation arrives at the step that is being done."""
        try:
            step = next(steps)
            while True:
                try:
                    result = await getattr(self, step.method)(*step.arguments)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    async def request(self, kind: type[Request], *fields: Any) -> Any:
        """See `Connection.request`."""
        number = self.connection.call(self._protocol.request, kind, *fields)
        return await self.await_reply(number, kind.__name__)

    async def await_reply(self, number: int, what: str) -> Any:
        """See `Connection.await_reply`."""
        try:
            if not await self._await_number(number, self.connection.config.request_timeout_s):
                raise self.connection.unanswered(what)
        except BaseException:
            self._protocol.forget_reply(number)
            raise
        return self._protocol.take_reply(number)

    async def await_event(self, number: int, timeout_s: float | None) -> bool:
        """See `Connection.await_event`."""
        arrived = False
        try:
            arrived = await self._await_number(number, timeout_s)
        finally:
            if not arrived:
                with suppress(EventBusError):  # The link has ended.
                    self.connection.call(self._protocol.cancel_wait, number)
        return arrived

    async def _await_number(self, number: int, timeout_s: float | None) -> bool:
        if not self._protocol.has_reply(number):
            self.transport.check()
            future = self._replies[number] = self._new_future()
            try:
                await self._await_future(future, timeout_s)
            finally:
                del self._replies[number]
            if not self._protocol.has_reply(number):
                self.transport.check()
                return False
        return True

    async def wait(self, ready: Callable[[], Any], timeout_s: float | None = None) -> bool:
        """See `Transport.wait`."""
        due = None if timeout_s is None else self.loop.time() + timeout_s
        while not ready():
            self.transport.check()
            left_s = None if due is None else due - self.loop.time()
            future = self._new_future()
            self._conditions[future] = ready
            try:
                await self._await_future(future, left_s)
            finally:
                del self._conditions[future]
            if left_s is not None and left_s <= 0 and not ready():
                self.transport.check()
                return False
        return True

    def _new_future(self) -> Future:
        self.check_loop()
        return self.loop.create_future()

    async def _await_future(self, future: Future, timeout_s: float | None) -> None:
        await self.loop.wait(future, None if timeout_s is None or timeout_s > WAIT_S_MAX else timeout_s)

    async def call_apart(self, call: Callable[..., T], *arguments: Any) -> T:
        """See `Connection.call_apart`: the call is made by a thread of the loop's."""
        return await self.loop.in_thread(partial(call, *arguments))

    # --- back pressure ---

    async def take_turn(self) -> None:
        """Let the loop do its other work, and wait until the manager has read what was written."""
        self.calls_left = CALLS_IN_A_ROW
        if self.transport.is_behind:
            await self.wait(lambda: not self.transport.is_behind)
        else:
            await self.loop.turn()

    # --- what arrives ---

    def _look(self) -> None:
        """Something has arrived, or the link has ended: wake those that wait for it."""
        has_ended = self.transport.ended
        for number in self._replies if has_ended else self._protocol.arrived_replies():
            self._set(self._replies.get(number))
        for future, ready in self._conditions.items():
            if has_ended or ready():
                self._set(future)

    def _set(self, future: Future | None) -> None:
        if future is not None and not future.done() and not self.loop.is_closed():
            future.set_result(None)
