"""A session in an event loop: `Session`, whose handlers are run by tasks."""

from __future__ import annotations

from contextlib import nullcontext

from eventbus_mp.aio.handlers import (
    AsyncBatchCall,
    AsyncBatchHandler,
    AsyncEventHandler,
    AsyncHandler,
    AsyncShadowHandler,
)
from eventbus_mp.aio.link import Link
from eventbus_mp.aio.tasks import HandlerTasks, running_endpoint
from eventbus_mp.aio.transport import LoopTransportLike
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.crews import Threads
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.handler_spec import HandlerSpec
from eventbus_mp.client.listeners import broadcast_key, listener_of
from eventbus_mp.client.session import Session
from eventbus_mp.client.steps import Steps
from eventbus_mp.errors import EventBusError
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.ids import EventId
from eventbus_mp.memory.store import SegmentStore
from eventbus_mp.statistics import SubscriberKey

__all__ = ["LoopSession"]


class LoopSession(Session):
    """Args:
    connection: A new link, over `transport`; the session's from now on.
    store: Where the bus's segments are.
    transport: The transport.
    """

    running_endpoint = staticmethod(running_endpoint)

    def __init__(self, connection: Connection, store: SegmentStore, *, transport: LoopTransportLike) -> None:
        self.transport = transport
        self.link = Link(connection, transport)
        super().__init__(connection, store, threads=Threads.NONE)
        self.tasks = HandlerTasks(self.link, self.fetcher, self.reporter)

    # --- hosting ---

    def subscribing(self, spec: HandlerSpec) -> Steps[SubscriberKey]:
        """Subscribe it, and have tasks run it; as which subscriber."""
        key = broadcast_key(spec.key, self.identity) if spec.broadcast else spec.key
        endpoint = yield from self.hosting(key, spec.subscription)
        handler = self._handler(spec, endpoint)
        handler.loop = self.link.loop
        self.tasks.add(handler, spec.concurrency)
        return key

    def _handler(self, spec: HandlerSpec, endpoint: ClientEndpoint) -> AsyncHandler:
        fetcher, reporter = self.fetcher, self.reporter
        if spec.retries is None:
            listener = listener_of(spec.listener)
            assert listener.call is not None
            call = self._bracketed(endpoint, listener.call)
            return AsyncShadowHandler(endpoint, fetcher, reporter, call, listener.arguments)
        if not spec.batch:
            call = self._bracketed(endpoint, spec.listener)
            return AsyncEventHandler(endpoint, fetcher, reporter, call, spec.retries)
        return AsyncBatchHandler(
            endpoint,
            fetcher,
            reporter,
            self._bracketed(endpoint, AsyncBatchCall(spec.listener)),
            retries=spec.retries,
            size=spec.batch,
            within_s=spec.within_s,
            now_ns=self.transport.monotonic_ns,
        )

    def return_unstarted(self, endpoint: ClientEndpoint) -> None:
        """See `Session.return_unstarted`."""
        self.tasks.remove(endpoint.number)
        super().return_unstarted(endpoint)

    def getting_event(self, shadow: EventShadow | tuple[str, EventId]) -> Steps[Event | None]:
        """The steps of `fetch`."""
        place = yield from self.placing(shadow)
        if place is None:
            return None
        if not self.fetcher.holds(place.sequence):
            return (yield from self.fetcher.fetching(place))
        yield from self.fetcher.naming(place.topic)
        return self.fetcher.fetch(place) if self.fetcher.holds(place.sequence) else None

    # --- the end ---

    def stop_listening(self, patience_s: float | None = None) -> bool:
        """Begin no call of a handler any more. Those that are under way are cancelled, if the loop still runs: with the
        end of the link, what they have goes to other processes. True: none is waited for."""
        self.tasks.cancel()
        return True

    async def leave(self, *, cancels: bool) -> None:
        """Wait for the handlers that run, and until all that was said is written; then `close` does not block.

        With `cancels`, the handlers are cancelled first. They are waited for even by a task that was cancelled as well,
        so that what they had does not go to others before they have ended.
        """
        if cancels:
            self.tasks.cancel()
        try:
            with self.link.loop.shielded() if cancels else nullcontext():
                await self.tasks.finish()
            await self.link.wait(lambda: not self.transport.is_behind)
        except EventBusError:
            return  # The bus has ended before.
