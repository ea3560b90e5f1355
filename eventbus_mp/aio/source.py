"""EventSource of an asyncio program: a block of code becomes an event, which is published by `await`."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from eventbus_mp.aio.bus import EventBus
from eventbus_mp.aio.handlers import finished
from eventbus_mp.client.source import BaseBlock, BaseSource, Unpublished
from eventbus_mp.events import Event

__all__ = ["EventBlock", "EventSource"]

P = ParamSpec("P")
R = TypeVar("R")


class EventBlock(BaseBlock):
    """One piece of work that becomes an event: what `aio.EventSource.notify` returns, for `async with`.

    It is that of `eventbus_mp.EventSource`; its end publishes like `aio.EventBus.notify`. If the block is cancelled,
    nothing is published.
    """

    def __init__(self, source: EventSource, fields: dict[str, Any]) -> None:
        super().__init__(source, fields)
        self._bus = source.bus

    async def __aenter__(self) -> EventBlock:
        self._begin()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        event = self._end(error)
        if event is not None:
            self.shadow = await self._bus.notify(event)


class EventSource(BaseSource):
    """Makes the events of one topic for an `aio.EventBus`; with the arguments and errors of `eventbus_mp.EventSource`.

    Args:
        bus: Where the events are published.
        topic: The events' topic.
        error_topic: The topic that an error is published to instead; None: an error is raised and not published.
        source: The `source` of the events: who makes them.
        ttl: How long the events may be delivered, in the bus's `time_unit`; None: `BusConfig.ttl`.

    Raises:
        InvalidTopic: A topic's name is not valid.
    """

    def __init__(
        self,
        bus: EventBus,
        topic: str,
        *,
        error_topic: str | None = None,
        source: str | None = None,
        ttl: int | None = None,
    ) -> None:
        super().__init__(bus, topic, error_topic=error_topic, source=source, ttl=ttl)
        self.bus = bus

    def notify(self, **fields: Any) -> EventBlock:
        """An `async with` block whose event is published at its end.

        An exception in the block is published to the error topic, if there is one, and then continues to the caller.

        Args:
            fields: Fields of `Event` except `data`, and `error_topic`.

        Raises:
            UsageError: There is no such field.
        """
        return EventBlock(self, fields)

    async def build(self, work: Callable[[], Any] | Any, **fields: Any) -> Event:
        """The event of one piece of work, not published.

        Args:
            work: Called for the event's data, and awaited if it has to be. A value that cannot be called is the data.
            fields: Fields of `Event` except `data`, and `error_topic`.

        Raises:
            UsageError: There is no such field.
            Exception: `work` raised it, and there is no error topic. If there is one, the error becomes the event.
        """
        block = EventBlock(self, fields)
        with Unpublished(block):
            block.data = await finished(work()) if callable(work) else work
        return block.event()

    def emits(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate a coroutine function: each result is published as an event and returned.

        An exception is published to the error topic, if there is one, and then continues to the caller.
        """

        @functools.wraps(function)
        async def emitting(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self.notify() as block:
                block.data = result = await function(*args, **kwargs)
            return result

        return emitting
