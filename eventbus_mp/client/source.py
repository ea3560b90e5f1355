"""EventSource: the block builder. Times, ids, transaction ids, source and ttl fill themselves.

The original's `EventSource.build` and `EventSource.notify` blocks, as a context manager, a call and a decorator.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from eventbus_mp.client.bus import EventBus
from eventbus_mp.config import TIME_UNITS_NS
from eventbus_mp.errors import UsageError
from eventbus_mp.events import Event, EventShadow, check_topic
from eventbus_mp.ids import unique_id

__all__ = ["EventBlock", "EventSource"]

P = ParamSpec("P")
R = TypeVar("R")

_clock_lock = threading.Lock()
_latest_ns = 0


def _new_clock_lock() -> None:
    global _clock_lock  # a forked child's: another thread of the parent may hold the one it got
    _clock_lock = threading.Lock()


os.register_at_fork(after_in_child=_new_clock_lock)


def _now_ns() -> int:
    """Wall-clock time that never goes backwards within this process."""
    global _latest_ns
    with _clock_lock:
        _latest_ns = max(_latest_ns, time.time_ns())
        return _latest_ns


class EventBlock:
    """One piece of work that becomes an event: the context manager that `EventSource.notify` returns.

    Set `data`, or `error` for the error topic; every other field has its default and may be set, too.
    """

    def __init__(self, source: EventSource, fields: dict[str, Any]) -> None:
        self._source = source
        self.topic: str = fields.pop("topic", None) or source.topic
        self.error_topic: str | None = fields.pop("error_topic", None) or source.error_topic
        self.id: str = fields.pop("id", None) or source.new_id()
        self.transaction_id: str = fields.pop("transaction_id", None) or self.id
        self.source: str | None = fields.pop("source", None) or source.source
        self.ttl: int | None = fields.pop("ttl", source.ttl)
        self.initialized_at: int | None = fields.pop("initialized_at", None)
        self.occurred_at: int | None = fields.pop("occurred_at", None)
        self.data: Any = None
        self.error: Any = None
        self.shadow: EventShadow | None = None
        """Of the event that was published; None before."""
        if fields:
            raise UsageError(f"an event has no field {', '.join(sorted(fields))}")

    def __enter__(self) -> EventBlock:
        if self.initialized_at is None:
            self.initialized_at = self._source.now()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            self.error = {"type": type(error).__name__, "message": str(error)}
            if self.error_topic is None:
                return  # There is nowhere to tell it but the caller, who gets it anyway.
        elif error is not None:
            return
        self.shadow = self._source.bus.notify(self.event())

    def event(self) -> Event:
        """The event as the block stands now; `error`, when set, goes to the error topic.

        Raises:
            UsageError: Neither `data` nor `error` was set, or `error` was and there is no error topic.
        """
        topic, data = self.topic, self.data
        if self.error is not None:
            if self.error_topic is None:
                raise UsageError(f"block.error was set, but the source of topic {self.topic!r} has no error_topic")
            topic, data = self.error_topic, self.error
        if data is None:
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
        )


class EventSource:
    """Makes the events of one topic.

    Args:
        bus: Where they go.
        topic: The events' topic.
        error_topic: Where an error goes instead; None: an error is only raised.
        source: Names who makes them.
        ttl: How long they are worth delivering, in the bus's `time_unit`; None: the config's.

    Raises:
        InvalidTopic: A topic name is not valid.
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
        self.bus = bus
        self.topic = check_topic(topic)
        self.error_topic = check_topic(error_topic) if error_topic is not None else None
        self.source = source
        self.ttl = ttl if ttl is not None else bus.config.ttl
        self._unit_ns = TIME_UNITS_NS[bus.config.time_unit]

    def new_id(self) -> str:
        """An id from the config's generator."""
        return (self.bus.config.id_generator or unique_id)()

    def now(self) -> int:
        """The time in the bus's unit; it never goes backwards within a process."""
        return _now_ns() // self._unit_ns

    def notify(self, **fields: Any) -> EventBlock:
        """A block whose event is published when it ends; `fields` are those of `Event`, without data.

        An exception in the block publishes to the error topic, if there is one, and is raised on.
        """
        return EventBlock(self, fields)

    def build(self, work: Callable[[], Any] | Any, **fields: Any) -> Event:
        """The event of one piece of work, not published. `work` is called; what is not callable is the data itself.

        Raises:
            Exception: What `work` raised, when there is no error topic; else it becomes the event's data.
        """
        block = EventBlock(self, fields)
        with _Unpublished(block):
            block.data = work() if callable(work) else work
        return block.event()

    def emits(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call's result becomes an event and is returned; an exception becomes an error."""

        @functools.wraps(function)
        def emitting(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.notify() as block:
                block.data = result = function(*args, **kwargs)
            return result

        return emitting


class _Unpublished:
    """A block that only keeps the time and the error."""

    def __init__(self, block: EventBlock) -> None:
        self._payload = block

    def __enter__(self) -> None:
        self._payload.__enter__()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception) or self._payload.error_topic is None:
            return False
        self._payload.error = {"type": type(error).__name__, "message": str(error)}
        return True
