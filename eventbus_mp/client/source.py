"""EventSource: a block of code becomes an event, whose times, ids, source and ttl fill themselves in.

The block is a context manager (`notify`), a call (`build`) or a decorator (`emits`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from heapq import heappushpop
from typing import Any, ParamSpec, TypeVar

from eventbus_mp.client.bus import EventBus
from eventbus_mp.client.handle_state import HandleState
from eventbus_mp.config import TIME_UNITS_NS
from eventbus_mp.errors import UsageError
from eventbus_mp.events import Event, EventShadow, check_topic
from eventbus_mp.ids import EventId, unique_id

__all__ = ["BaseBlock", "BaseSource", "EventBlock", "EventSource", "Unpublished"]

P = ParamSpec("P")
R = TypeVar("R")

NOT_SET: Any = object()
"""Stands for the data of a block that has set none; None is data as any other."""

_latest_ns = [0]
"""The latest time that was given out; a heap of one."""


def _now_ns() -> int:
    """Wall-clock time that never goes backwards within this process."""
    # Of the two, the heap gives back the smaller one and keeps the larger one: `latest = max(latest, now)` in one step
    # of the interpreter, between which and the next no other thread and no signal handler can run. A lock would make
    # a handler wait for the thread that it interrupts.
    heappushpop(_latest_ns, time.time_ns())
    return _latest_ns[0]


class BaseBlock:
    """The fields of an event in the making; a thread (`EventBlock`) or a task (aio/source.py) publishes it."""

    def __init__(self, source: BaseSource, fields: dict[str, Any]) -> None:
        self._source = source
        self.topic: str = fields.pop("topic", None) or source.topic
        self.error_topic: str | None = fields.pop("error_topic", None) or source.error_topic
        given_id, transaction_id = fields.pop("id", None), fields.pop("transaction_id", None)
        self.id: EventId = given_id if given_id is not None else source.new_id()
        self.transaction_id: EventId = transaction_id if transaction_id is not None else self.id
        self.source: str | None = fields.pop("source", None) or source.source
        self.ttl: int | None = fields.pop("ttl", source.ttl)
        self.initialized_at: int | None = fields.pop("initialized_at", None)
        self.occurred_at: int | None = fields.pop("occurred_at", None)
        self.headers: Mapping[str, str] | None = fields.pop("headers", None)
        self.data: Any = NOT_SET
        self.error: Any = None
        self.shadow: EventShadow | None = None
        """The shadow of the event that was published; None before."""
        if fields:
            raise UsageError(f"an event has no field {', '.join(sorted(fields))}")

    def _begin(self) -> None:
        if self.initialized_at is None:
            self.initialized_at = self._source.now()

    def _end(self, error: BaseException | None) -> Event | None:
        """The event to publish; None: the work has ended by `error`, which the caller gets in either case."""
        if isinstance(error, Exception):
            self.error = {"type": type(error).__name__, "message": str(error)}
        if error is not None and (self.error_topic is None or not isinstance(error, Exception)):
            return None
        return self.event()

    def event(self) -> Event:
        """The event with the fields that the block has now, not published.

        If `error` is set, it is the event of the error topic.

        Raises:
            UsageError: Neither `data` nor `error` was set, or `error` was set and there is no error topic.
        """
        topic, data = self.topic, self.data
        if self.error is not None:
            if self.error_topic is None:
                raise UsageError(f"block.error was set, but the source of topic {self.topic!r} has no error_topic")
            topic, data = self.error_topic, self.error
        if data is NOT_SET:
            raise UsageError(f"the block of topic {self.topic!r} ended without block.data or block.error")
        return Event(
            self.id,
            topic,
            data,
            transaction_id=self.transaction_id,
            initialized_at=self.initialized_at,
            occurred_at=self.occurred_at if self.occurred_at is not None else self._source.now(),
            source=self.source,
            ttl=self.ttl,
            headers=self.headers,
        )


class EventBlock(BaseBlock):
    """One piece of work that becomes an event: the context manager that `EventSource.notify` returns.

    Set `data` in the block, or `error` to publish to the error topic instead. Every other field has its default, and
    may be set as well. The end of the block publishes the event like `EventBus.notify`: it blocks like that and raises
    the same errors. If the block ends by an exception and there is no error topic, nothing is published.

    Raises:
        UsageError: There is no such field; or, at the end of the block, neither `data` nor `error` was set, or `error`
            was set and the source has no error topic.
    """

    def __init__(self, source: EventSource, fields: dict[str, Any]) -> None:
        super().__init__(source, fields)
        self._bus = source.bus

    def __enter__(self) -> EventBlock:
        self._begin()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        event = self._end(error)
        if event is not None:
            self.shadow = self._bus.notify(event)


class BaseSource:
    """What a source was made with, and what it gives to each block."""

    def __init__(
        self,
        bus: HandleState[Any],
        topic: str,
        *,
        error_topic: str | None = None,
        source: str | None = None,
        ttl: int | None = None,
    ) -> None:
        self._handle = bus
        self.topic = check_topic(topic)
        self.error_topic = check_topic(error_topic) if error_topic is not None else None
        self.source = source
        self.ttl = ttl if ttl is not None else bus.config.ttl
        self._unit_ns = TIME_UNITS_NS[bus.config.time_unit]

    def new_id(self) -> EventId:
        """A new id, from `BusConfig.id_generator` if there is one. Never blocks."""
        return (self._handle.config.id_generator or unique_id)()

    def now(self) -> int:
        """The wall-clock time in the bus's `time_unit`; it never goes backwards within a process.

        Never blocks, and may be called from any thread and from a signal handler.
        """
        clock_ns = self._handle._clock_ns
        return (_now_ns() if clock_ns is None else clock_ns()) // self._unit_ns


class EventSource(BaseSource):
    """Makes the events of one topic. Making a source neither connects nor blocks.

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
        """A block whose event is published at its end: see `EventBlock`.

        An exception in the block is published to the error topic, if there is one, and then continues to the caller.

        Args:
            fields: Fields of `Event` except `data`, and `error_topic`.

        Raises:
            UsageError: There is no such field.
        """
        return EventBlock(self, fields)

    def build(self, work: Callable[[], Any] | Any, **fields: Any) -> Event:
        """The event of one piece of work, not published; blocks as long as `work` does.

        Args:
            work: Called for the event's data. A value that cannot be called is the data itself.
            fields: Fields of `Event` except `data`, and `error_topic`.

        Raises:
            UsageError: There is no such field.
            Exception: `work` raised it, and there is no error topic. If there is one, the error becomes the event.
        """
        block = EventBlock(self, fields)
        with Unpublished(block):
            block.data = work() if callable(work) else work
        return block.event()

    def emits(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each result is published as an event and returned, like a `notify` block's data.

        An exception is published to the error topic, if there is one, and then continues to the caller.
        """

        @functools.wraps(function)
        def emitting(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.notify() as block:
                block.data = result = function(*args, **kwargs)
            return result

        return emitting


class Unpublished:
    """Notes the times and the error of a block, and publishes nothing."""

    def __init__(self, block: BaseBlock) -> None:
        self._block = block

    def __enter__(self) -> None:
        self._block._begin()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception) or self._block.error_topic is None:
            return False
        self._block.error = {"type": type(error).__name__, "message": str(error)}
        return True
