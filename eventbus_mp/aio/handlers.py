"""Handlers whose calls may be awaited: those of `client/handlers.py`, with another way to call the user's code.

What becomes of a delivery by how the call ends is decided there. Here a call may also be cancelled: then it is as if it
had never begun, and the delivery goes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from eventbus_mp.aio.loops import Loop
from eventbus_mp.client.batch_handler import BatchCall, BatchHandler, outcomes_of
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.handlers import EventHandler, Handler, ShadowHandler
from eventbus_mp.client.plain_calls import refuse_unrun
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.client.retries import Retries
from eventbus_mp.events import Event
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.reasons import PAYLOAD_GONE

__all__ = [
    "AsyncBatchCall",
    "AsyncBatchHandler",
    "AsyncEventHandler",
    "AsyncHandler",
    "AsyncShadowHandler",
    "finished",
]

COMPLETED = int(Outcome.COMPLETED)


class AsyncHandler(Handler):
    """What a task calls, in the place of `Handler.run`."""

    loop: Loop
    """Set before it runs."""
    size = 0
    """The largest batch; 0: deliveries are handled one by one."""
    within_s = 0.0
    """How long a delivery waits for its batch to become full."""

    async def handle(self, record: Record) -> int:
        """As `Handler.run`, for a task.

        Raises:
            BaseException: An interruption (`Loop.is_interruption`) has ended the call; its outcome is not noted.
        """
        raise NotImplementedError

    async def handle_batch(self, records: list[Record]) -> None:
        """As `BatchHandler.run_batch`, for a task."""
        raise NotImplementedError


class AsyncEventHandler(AsyncHandler, EventHandler):
    """For `aio.EventBus.on`."""

    async def handle(self, record: Record) -> int:
        """See `AsyncHandler.handle`."""
        attempts = 0
        while True:
            event = self._take(record)  # Not in the `try`: what it raises is not a failure of the user's code.
            if event is None:
                return self._skip(record, PAYLOAD_GONE, Outcome.FAILED)
            try:
                result = self.call(event)
                if result is not None:
                    await finished(result)
                return COMPLETED
            except BaseException as error:
                if self.loop.is_interruption(error):
                    raise
                attempts += 1
                if self._has_ended(record, error, attempts):
                    return 0


class AsyncShadowHandler(AsyncHandler, ShadowHandler):
    """For `aio.EventBus.subscribe`."""

    async def handle(self, record: Record) -> int:
        """See `AsyncHandler.handle`."""
        shadow = self._begin(record)
        if shadow is None:
            return self._skip(record, PAYLOAD_GONE, Outcome.FAILED)
        try:
            result = self.call(shadow, *self._arguments)
            if result is not None:
                await finished(result)
        except BaseException as error:
            if self.loop.is_interruption(error):
                if self.endpoint.in_flight.pop(record[7], None) is None:
                    return 0  # It was settled before.
                raise
            return self._raised(record, shadow, error)
        return self._returned(record)


class AsyncBatchCall(BatchCall):
    """A `BatchCall` whose function may have to be awaited; so has this."""

    async def __call__(self, events: list[Event]) -> list[BaseException | None]:
        count = len(events)  # The list is the function's from now on.
        return outcomes_of(await finished(self._function(events)), count)


class AsyncBatchHandler(AsyncHandler, BatchHandler):
    """For `aio.EventBus.on(..., batch=)`.

    Args:
        call: An `AsyncBatchCall`, perhaps with hooks around it; the others are those of `BatchHandler`.
    """

    def __init__(
        self,
        endpoint: ClientEndpoint,
        fetcher: EventFetcher,
        reporter: Reporter,
        call: Callable[[list[Event]], Awaitable[list[BaseException | None]]],
        *,
        retries: Retries,
        size: int,
        within_s: float,
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__(
            endpoint, fetcher, reporter, call, retries=retries, size=size, within_ns=int(within_s * 1e9), now_ns=now_ns
        )
        self.size, self.within_s = size, within_s

    async def handle_batch(self, records: list[Record]) -> None:
        """See `AsyncHandler.handle_batch`."""
        attempts = 0
        while True:
            found = self._read(records)
            if not found:
                return
            records = [record for record, _ in found]  # The others are settled.
            try:
                ends = await self.call([event for _, event in found])
            except BaseException as error:
                if self.loop.is_interruption(error):
                    raise
                attempts += 1
                if self._have_ended(records, error, attempts):
                    return
            else:
                self._end_each(records, ends)
                return


async def finished(result: Any) -> Any:
    """What the user's call has come to, once it is awaited if it has to be.

    Raises:
        UsageError: It is something that does not run, such as a generator.
    """
    if hasattr(type(result), "__await__"):
        return await result
    refuse_unrun(result)
    return result
