"""The inbox of an asyncio program: `await inbox.get()`, or `async for shadow in inbox`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol, TypeVar

from eventbus_mp.aio.session import LoopSession
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.mailbox import Mailbox
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.client.validation import check_delay, check_shadows, check_timeout
from eventbus_mp.errors import BusClosed, ManagerLost
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.statistics import SubscriberKey

__all__ = ["Inbox"]

T = TypeVar("T")


class _ComesBack(Protocol):
    """The handle of an inbox, which has another session when its bus was lost."""

    async def _after_loss(self, session: LoopSession, error: ManagerLost) -> LoopSession: ...


class Inbox(Mailbox):
    """The shadows of one subscriber, to be taken when you want them. Made by `aio.EventBus.inbox`; tasks may share one.

    Its calls are those of `eventbus_mp.Inbox`, with the same arguments and errors. A call that is cancelled has taken
    nothing. Use it in `async with`, whose end hands back what is not settled.
    """

    def __init__(
        self,
        session: LoopSession,
        endpoint: ClientEndpoint,
        key: SubscriberKey,
        *,
        handle: _ComesBack,
        subscription: Subscription,
    ) -> None:
        super().__init__(session, endpoint, key)
        self._session: LoopSession = session
        self._handle = handle
        self._subscription = subscription

    # --- taking ---

    async def get(self, timeout_s: float | None = None) -> EventShadow | None:
        """Take the next shadow; None if none came in time. Waits until there is one.

        Args:
            timeout_s: Seconds to wait at most; None: as long as it takes.

        Raises:
            BusClosed: The inbox, or its bus, was closed.
            ManagerLost: The manager has ended, and the bus with it.
            UsageError: `timeout_s` is not a time.
        """
        shadows = await self._take(1, check_timeout(timeout_s), self._shadow)
        return shadows[0] if shadows else None

    async def get_many(self, limit: int, timeout_s: float | None = None) -> list[EventShadow]:
        """Take up to `limit` shadows: waits until there is one, then takes what there is. See `Inbox.get_many`."""
        return await self._take(self._checked_limit("get_many", limit), check_timeout(timeout_s), self._shadow)

    async def events(self, limit: int, timeout_s: float | None = None) -> list[tuple[EventShadow, Event]]:
        """Take up to `limit` events, each with its shadow; otherwise like `get_many`."""
        return await self._take(self._checked_limit("events", limit), check_timeout(timeout_s), self._event)

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> EventShadow:
        shadow = None
        while shadow is None:
            try:
                shadow = await self.get()
            except BusClosed:
                raise StopAsyncIteration from None
        return shadow

    async def _take(self, limit: int, timeout_s: float | None, read: Callable[[Record], T | None]) -> list[T]:
        now_ns = self._session.transport.monotonic_ns
        deadline_ns = None if timeout_s is None else now_ns() + int(timeout_s * 1e9)
        while True:
            session = self._session
            try:
                return await self._take_once(limit, deadline_ns, read)
            except ManagerLost as error:
                await self._follow(session, error)

    async def _take_once(self, limit: int, deadline_ns: int | None, read: Callable[[Record], T | None]) -> list[T]:
        session, endpoint = self._session, self._endpoint
        taken: list[T] = []
        while not taken:
            self._check_open()
            session.reporter.release_ended()
            if limit > 1 and len(endpoint.pending) < limit and not endpoint.demand:
                await session.link.await_reply(session.reporter.demand(endpoint, limit), "Demand")
            elif not endpoint.pending:
                session.reporter.flush(endpoint)
            left_s = None
            if deadline_ns is not None:
                left_s = (deadline_ns - session.transport.monotonic_ns()) / 1e9
            if not await session.link.wait(lambda: endpoint.pending or self._ended, left_s):
                return []
            self._check_open()
            unnamed = {record[1] for record in islice(endpoint.pending, limit)} - session.fetcher.named
            for topic in unnamed:
                await session.link.run(session.fetcher.naming(topic))
            if not unnamed:  # else: another task may have taken what was there.
                self._take_arrived(limit, read, taken)
        return taken

    # --- settling ---

    async def complete(self, shadow: EventShadow) -> None:
        """Complete a shadow that was taken from here. Does not wait for the manager; repeated, it changes nothing.

        Raises:
            BusClosed, ManagerLost: As of `get`.
            NotSubscribed: The event was not delivered to this inbox's subscriber.
        """
        await self._settle([shadow], Outcome.COMPLETED)

    async def skip(self, shadow: EventShadow, reason: str = "") -> None:
        """Skip a shadow that was taken from here; else like `complete`."""
        await self._settle([shadow], Outcome.SKIPPED, reason)

    async def complete_many(self, shadows: Iterable[EventShadow]) -> None:
        """Complete shadows that were taken from here; else like `complete`."""
        await self._settle(check_shadows("complete_many", shadows), Outcome.COMPLETED)

    async def skip_many(self, shadows: Iterable[EventShadow], reason: str = "") -> None:
        """Skip shadows that were taken from here, all for one reason; else like `complete`."""
        await self._settle(check_shadows("skip_many", shadows), Outcome.SKIPPED, reason)

    async def release(self, shadow: EventShadow, delay_s: float = 0.0) -> None:
        """Hand back a shadow that was taken from here: it comes again after `delay_s`, and counts as tried.

        Raises:
            UsageError: `delay_s` is not a time.
            BusClosed, ManagerLost: As of `get`.
            NotSubscribed: It was not taken from an inbox.
        """
        delay_s = check_delay("delay_s", delay_s)
        self._check_open()
        session = self._session
        try:
            if self._note_release(shadow, delay_s):
                session.reporter.flush_soon(self._endpoint)
        except ManagerLost as error:
            await self._follow(session, error)

    async def _settle(self, shadows: list[EventShadow], outcome: int, reason: str = "") -> None:
        self._check_open()
        for shadow in shadows:
            self._place(shadow)
        session = self._session
        try:
            await session.link.run(session.settling(self, shadows, outcome, reason))
        except ManagerLost as error:
            await self._follow(session, error)  # The deliveries are lost with the bus.

    # --- a bus that was lost, and the end ---

    async def _resume(self, session: LoopSession) -> None:
        """Go on as a mailbox of this session: the bus of the one before was lost."""
        if not self._ended and self._session is not session:
            endpoint = await session.link.run(session.hosting(self.key, self._subscription))
            self._endpoint, self._session = endpoint, session

    async def _follow(self, session: LoopSession, error: ManagerLost) -> None:
        found = await self._handle._after_loss(session, error)
        if self._session is session:
            await self._resume(found)

    async def close(self, *, keep: bool = False) -> None:
        """Hand back what is not settled, and end the subscription unless another process has such an inbox as well.

        Waits for one round trip. Repeated, it does nothing.

        Args:
            keep: Whether the subscriber stays all the same, for `orphan_grace_s`; so it does when an exception leaves
                the inbox's `async with` block.
        """
        if self._closed:
            return
        session = self._session
        if not session.connection.lost:
            session.link.check_loop()
        self._closed = True
        session.connection.wake()
        if not session.connection.lost:
            await session.link.run(session.dropping(self._endpoint, not keep))

    async def __aenter__(self) -> Inbox:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        await self.close(keep=kind is not None)
