"""A session with instruments in an event loop. What its hooks are called for is that of `InstrumentedSession`.

Hooks are plain functions, called in the task of the call that they surround; so what one sets in a `ContextVar`, the
call sees, and nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eventbus_mp.aio.handlers import finished
from eventbus_mp.aio.inbox import Inbox
from eventbus_mp.aio.loops import Loop
from eventbus_mp.aio.session import LoopSession
from eventbus_mp.aio.transport import LoopTransportLike
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.hooks import Hooks
from eventbus_mp.client.instrumented import (
    DeliveryOf,
    HandlerCall,
    InstrumentedSession,
    fetching,
    outcome_of,
    receiving,
)
from eventbus_mp.client.steps import Steps
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.ids import EventId
from eventbus_mp.memory.store import SegmentStore
from eventbus_mp.protocol.messages import Record
from eventbus_mp.statistics import SubscriberKey

__all__ = ["AsyncHandlerCall", "InstrumentedInbox", "InstrumentedLoopSession", "make_loop_inbox", "make_loop_session"]

T = TypeVar("T")


def make_loop_session(
    connection: Connection, store: SegmentStore, transport: LoopTransportLike, hooks: Hooks | None
) -> LoopSession:
    """The session of a new connection, with hooks if there are any."""
    if hooks is None:
        return LoopSession(connection, store, transport=transport)
    return InstrumentedLoopSession(connection, store, hooks=hooks, transport=transport)


def make_loop_inbox(session: LoopSession, endpoint: ClientEndpoint, key: SubscriberKey, **more: Any) -> Inbox:
    """An inbox over an endpoint, with hooks if its session has such."""
    has_hooks = isinstance(session, InstrumentedLoopSession) and session.hooks.has("receive")
    return (InstrumentedInbox if has_hooks else Inbox)(session, endpoint, key, **more)


class InstrumentedLoopSession(InstrumentedSession, LoopSession):
    """A session in a loop whose calls have hooks before and after them."""

    def _bracketed(self, endpoint: ClientEndpoint, call: Callable[..., Any]) -> Callable[..., Any]:
        if not self.hooks.has("handle"):
            return call
        return AsyncHandlerCall(self.hooks, DeliveryOf(endpoint, self.fetcher), call, self.link.loop)

    def getting_event(self, shadow: EventShadow | tuple[str, EventId]) -> Steps[Event | None]:
        """See `LoopSession.getting_event`."""
        with fetching(self.hooks, shadow) as found:
            found.append((yield from super().getting_event(shadow)))
        return found[0]


class InstrumentedInbox(Inbox):
    """An inbox with the hooks of `before_receive` and `after_receive`."""

    _session: InstrumentedLoopSession

    async def _take(self, limit: int, timeout_s: float | None, read: Callable[[Record], T | None]) -> list[T]:
        with receiving(self._session, self._endpoint, limit) as taken:
            taken += await super()._take(limit, timeout_s, read)
        return taken


class AsyncHandlerCall(HandlerCall):
    """A `HandlerCall` whose function may have to be awaited; so has this."""

    def __init__(self, hooks: Hooks, reader: DeliveryOf, call: Callable[..., Any], loop: Loop) -> None:
        super().__init__(hooks, reader, call)
        self._loop = loop

    async def __call__(self, item: Event | EventShadow | list[Event], *arguments: Any) -> Any:
        items = self._before(item)
        try:
            result = await finished(self._call(item, *arguments))
        except BaseException as error:
            outcome = "returned" if self._loop.is_cancellation(error) else outcome_of(error)
            self._after_error(items, error, outcome)
            raise
        self._after(item, items, result)
        return result
