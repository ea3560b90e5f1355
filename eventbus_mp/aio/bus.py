"""EventBus for asyncio and trio: the handle that users hold. asking.py has the part that asks about the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.aio.asking import AskingHandle
from eventbus_mp.aio.changes import Changes
from eventbus_mp.aio.inbox import Inbox
from eventbus_mp.aio.instrumented import make_loop_inbox
from eventbus_mp.aio.loan import Loan
from eventbus_mp.aio.running import running_loop
from eventbus_mp.aio.session import LoopSession
from eventbus_mp.client import sessions
from eventbus_mp.client.connection import only_looks
from eventbus_mp.client.directions import direction_of
from eventbus_mp.client.handler_spec import HandlerSpec, handler_decorator
from eventbus_mp.client.hooks import InstrumentSource, check_instruments
from eventbus_mp.client.listeners import broadcast_key, listener_of, watcher_of, wire_key
from eventbus_mp.client.loan import check_loan
from eventbus_mp.client.retries import RETRY_DELAY_MAX_S, Retries
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.client.validation import (
    bus_settings,
    check_backlog,
    check_credit,
    check_mark,
    check_name,
    check_patterns,
    check_required,
    check_scope,
    check_timeout,
)
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import ManagerLost, UsageError, WaitTimeout
from eventbus_mp.events import Event, EventShadow, check_topic
from eventbus_mp.ids import EventId
from eventbus_mp.lifecycle import FORK_MARK
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.runtime.endings import manager_end
from eventbus_mp.statistics import SubscriberKey, Watcher

__all__ = ["EventBus"]

Function = TypeVar("Function", bound=Callable[..., Any])


class EventBus(AskingHandle):
    """A handle of one bus for asyncio. Its calls are those of `eventbus_mp.EventBus`, with the same arguments and
    errors: what blocks a thread there is awaited here. The bus is the same one, and so are its other processes.

    Making it is cheap. `async with`, `connect`, or the first call connects, for at most `connect_timeout_s`; only that
    is done by a thread, which ends with it, for it may have to start the manager. All else is done by the event loop,
    to which a handle belongs from then on: it is for the tasks of one loop, and for one thread. Under trio its tasks
    live in the `async with` block, and a call from outside raises `UsageError`.

        async with aio.EventBus("shop", topics=["order"]) as bus:
            await bus.notify(Event("4711", "order", {"sum": 12}))

    Args:
        name: The bus; all processes of this user that name it share it.
        topics: Topics that are registered on connecting, in addition to `config.topics`.
        config: The settings; None: from `EVENTBUS_MP_*` variables.
        require: As of `eventbus_mp.EventBus`.
        instruments: As of `eventbus_mp.EventBus`. Their hooks are called in the task of the call that they surround.
        settings: Single fields of `BusConfig`, which win over the variables.

    Raises:
        UsageError: The name, a topic or a setting is not valid, or there is no such setting.
        ManagerLost, BusClosed: From the other calls, as of `eventbus_mp.EventBus`.
    """

    def __init__(
        self,
        name: str,
        topics: Iterable[str] = (),
        *,
        config: BusConfig | None = None,
        require: Iterable[str] = (),
        instruments: Iterable[InstrumentSource] = (),
        **settings: Any,
    ) -> None:
        name, config, wanted = bus_settings(name, topics, config, settings)
        super().__init__(name, config, wanted, check_required(require), check_instruments(instruments))

    @classmethod
    async def attach(cls, name: str, *, config: BusConfig | None = None, **settings: Any) -> EventBus:
        """A handle that only looks at a bus that is running: see `eventbus_mp.EventBus.attach`.

        It is connected; under trio, `async with` connects it.
        """
        name, config, _ = bus_settings(name, (), config, settings)
        bus = cls(name, config=config)
        bus._observes, bus._starts, bus._topics = True, False, ()
        return bus if running_loop().is_structured else await bus.connect()

    async def connect(self) -> EventBus:
        """Connect, if that was not done, and subscribe what was decorated: this handle.

        Raises:
            ManagerLost: No manager could be reached or started in time.
        """
        await self._live()
        return self

    @property
    def life(self) -> str:
        """What distinguishes this bus from every other one of its name, before and after it: see
        `eventbus_mp.EventBus.life`.

        Raises:
            UsageError: This handle is not connected: `await connect()` first.
        """
        session = self._session
        if session is None or session.is_lost:
            raise UsageError(f"this handle of bus {self.name!r} is not connected; await connect() first")
        return session.connection.welcome.life

    # --- subscribers ---

    async def subscribe(
        self,
        listener: Any,
        patterns: Iterable[str],
        *,
        broadcast: bool = False,
        credit: int | str = "auto",
        concurrency: int = 1,
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> SubscriberKey:
        """Call `listener` with the shadow of each event whose topic a pattern matches: see `EventBus.subscribe`.

        The listener may be a coroutine function, an object with an `async def process(shadow)`, or a plain one.

        Args:
            listener: As of `eventbus_mp.EventBus`, as all others.
            concurrency: How many of its calls may be under way at once.

        Raises:
            InvalidPattern, UsageError: As of `eventbus_mp.EventBus`.
        """
        spec = HandlerSpec.from_listener(
            listener,
            patterns,
            broadcast=broadcast,
            credit=credit,
            concurrency=concurrency,
            may_await=True,
            scope=scope,
            bound=check_backlog(backlog_max, backlog_bytes_max, when_full),
        )
        key = await self._on_live(partial(self._subscribe, spec=spec))
        self._keep(spec)
        return key

    def on(
        self,
        *patterns: str,
        retries: int = 0,
        retry_delay_s: float = 0.0,
        retry_delay_max_s: float = RETRY_DELAY_MAX_S,
        name: str | None = None,
        broadcast: bool = False,
        credit: int | str = "auto",
        batch: int | None = None,
        within_s: float | None = None,
        concurrency: int = 1,
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> Callable[[Function], Function]:
        """Decorate a function, `async def` or plain, that is called with each event whose topic a pattern matches.

        Returning or raising settles the event, as of `eventbus_mp.EventBus.on`. A call that is cancelled hands the
        event back, and counts as no attempt. Decorating does not wait: the function is subscribed when the handle
        connects or, if it has, by its next call that is awaited, such as `connect`.

        Args:
            patterns: As of `eventbus_mp.EventBus`, as all others.
            concurrency: How many of its calls may be under way at once.

        Raises:
            InvalidPattern, UsageError: As of `eventbus_mp.EventBus`.
        """

        def add(spec: HandlerSpec) -> None:
            self._keep(spec)
            self._unhosted.append(spec)

        return handler_decorator(
            add,
            patterns,
            retries=Retries(retries, retry_delay_s, retry_delay_max_s),
            name=name,
            broadcast=broadcast,
            credit=credit,
            batch=batch,
            within_s=within_s,
            concurrency=concurrency,
            may_await=True,
            scope=scope,
            bound=check_backlog(backlog_max, backlog_bytes_max, when_full),
        )

    async def inbox(
        self,
        name: str,
        patterns: Iterable[str],
        *,
        broadcast: bool = False,
        credit: int | str = "auto",
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> Inbox:
        """Subscribe a mailbox called `name`: see `aio.Inbox`.

        Raises:
            InvalidPattern, UsageError: As of `eventbus_mp.EventBus`.
        """
        key = SubscriberKey(check_name(name))
        wanted, shadows = tuple(check_patterns(patterns)), check_credit(credit)
        shared = check_scope(scope, broadcast=broadcast)
        bound = check_backlog(backlog_max, backlog_bytes_max, when_full)
        how = Subscription(wanted, shadows, broadcast, scope=shared, bound=bound)

        async def make(session: LoopSession) -> Inbox:
            own = broadcast_key(key, session.identity) if broadcast else key
            endpoint = await session.link.run(session.hosting(own, how))
            return make_loop_inbox(session, endpoint, own, handle=self, subscription=how)

        inbox = await self._on_live(make)
        self._inboxes.add(inbox)
        return inbox

    def changes(self) -> Changes:
        """Follow what is registered and subscribed, first of all what there is: see `aio.Changes`. Does not wait."""
        changes = Changes(self)
        self._inboxes.add(changes)
        return changes

    async def unsubscribe(self, listener: Any) -> bool:
        """Unsubscribe the listener in every process; False if no process had subscribed it.

        It does not wait for calls of the listener that are under way.
        """
        key = listener_of(listener).key
        session = await self._live()
        own = broadcast_key(key, session.identity)
        known = session.find(key) or session.find(own)
        self._forget(key)
        gone = False
        for wanted in (key, own):
            gone |= bool(await self._ask(requests.Unsubscribe, *wire_key(wanted)))
        if known is not None:
            session.return_unstarted(known)
            session.forget(known)
        return gone

    # --- events ---

    async def notify(self, event: Event, *, timeout_s: float | None = None) -> EventShadow:
        """Publish the event to every subscriber of its topic, and return without waiting for them.

        It waits while the bus's memory is full (up to `notify_timeout_s`) or the manager is behind, and gives the loop
        a turn after each 256 events. If it is cancelled, or raises, nothing was published.

        Args:
            event: Made here, or fetched.
            timeout_s: How long to wait for memory, in seconds; None: `notify_timeout_s`.

        Raises:
            EventBusError: As of `eventbus_mp.EventBus`.
        """
        return (await self._publish(event, awaited=False, timeout_s=check_timeout(timeout_s)))[1]

    async def _publish(
        self, event: Event, *, awaited: bool, timeout_s: float | None = None
    ) -> tuple[LoopSession, EventShadow]:
        session = self._session
        if session is None or self._unhosted or session.is_lost or not FORK_MARK[0]:
            session = await self._live()
        link = session.link
        if not link.loop.is_running():  # It costs a tenth of `check_loop`, for which the way with steps is left.
            link.check_loop()
        link.calls_left -= 1
        try:
            if link.calls_left < 0 or session.transport.is_behind:
                await link.take_turn()
            # hot path: what need not wait is published without steps.
            shadow = session.publisher.notify_now(event, awaited)
            if shadow is None:
                shadow = await link.run(session.publisher.notifying(event, awaited, timeout_s))
        except ManagerLost as error:
            session = await self._after_loss(session, error)
            shadow = await session.link.run(session.publisher.notifying(event, awaited, timeout_s))
        return session, shadow

    async def notify_many(
        self, events: Iterable[Event], *, only: Iterable[Any] | None = None, timeout_s: float | None = None
    ) -> list[EventShadow]:
        """Publish events in their order; the shadows, in the same order. Waits and raises like `notify`.

        If it is cancelled while it waits for memory, the events before are published. After `BusFull`, the error's
        `published` has their shadows.
        """
        timeout_s = check_timeout(timeout_s)
        around = None if only is None else direction_of(only)
        session = await self._live()
        await session.link.take_turn()
        if isinstance(events, (list, tuple)):
            return await self._run(lambda session: session.publisher.notifying_many(events, timeout_s, around))
        # What a generator has given is gone when the bus is lost.
        return await session.link.run(session.publisher.notifying_many(events, timeout_s, around))

    def loan(
        self, topic: str, nbytes: int | None = None, *, shape: Any = None, dtype: Any = None, **fields: Any
    ) -> Loan:
        """Shared memory to fill in place in an `async with` block, whose end publishes it without a copy.

        Does not wait; entering the block does, as `notify`. If the block is cancelled, nothing is published.

        Args:
            topic: The event's topic.
            nbytes: The size of the memory; the event's data is then a memoryview.
            shape: The shape of an array; the event's data is then an ndarray of this shape and `dtype`.
            dtype: The type of its elements, as numpy names it.
            fields: Other fields of `Event`, except `data`. Without `id`, the event gets a new one.

        Raises:
            UsageError: A size, shape or field is not valid, or numpy is needed and not installed.
        """
        return Loan(self, check_loan(self.config, topic, nbytes, shape, dtype, fields))

    async def notify_and_wait(self, event: Event, *, timeout_s: float | None = None) -> Watcher:
        """Publish the event, and wait until all its deliveries are settled; the event's final watcher.

        Raises:
            WaitTimeout: The event is not settled after `timeout_s`. It stays published, and may be settled later. So it
                is when this is cancelled while it waits.
            EventBusError: As of `notify`.
        """
        timeout_s = check_timeout(timeout_s)
        session, shadow = await self._publish(event, awaited=True)
        if shadow._place is None:
            return Watcher()
        sequence = shadow._place.sequence
        if not await session.link.await_event(sequence, timeout_s):
            raise WaitTimeout(f"event {event.id!r} of topic {event.topic!r} is not settled after {timeout_s:g} s")
        return watcher_of(session.connection.protocol.take_reply(sequence))

    async def fetch_event(self, shadow: EventShadow | tuple[str, EventId]) -> Event | None:
        """The event of a shadow; None if it is settled, or was dropped because it had no subscriber.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        return await self._run(lambda session: session.getting_event(shadow))

    async def fetch_event_data(self, shadow: EventShadow | tuple[str, EventId]) -> Any:
        """The data of `fetch_event`; None if that is None."""
        event = await self.fetch_event(shadow)
        return event.data if event is not None else None

    async def mark_as_completed(self, listener: Any, shadow: EventShadow | tuple[str, EventId]) -> None:
        """Settle the event for this listener as completed; whichever process holds the delivery.

        Raises:
            NotSubscribed: The event was not delivered to this listener.
            UsageError: It is not a listener, or neither a shadow nor a pair.
        """
        await self._run(lambda session: session.settling(listener, (shadow,), Outcome.COMPLETED))

    async def mark_as_skipped(self, listener: Any, shadow: EventShadow | tuple[str, EventId]) -> None:
        """Settle the event for this listener as skipped; otherwise like `mark_as_completed`."""
        await self._run(lambda session: session.settling(listener, (shadow,), Outcome.SKIPPED))

    async def mark_many(
        self,
        listener: Any,
        shadows: Iterable[EventShadow | tuple[str, EventId]],
        outcome: str = "completed",
        *,
        reason: str = "",
    ) -> None:
        """Settle events for this listener, all in the same way: like `mark_as_completed` for each of them.

        Raises:
            NotSubscribed, UsageError: As of `eventbus_mp.EventBus`.
        """
        wanted, number = check_mark(shadows, outcome, reason)
        await self._run(lambda session: session.settling(listener, wanted, number, reason))

    # --- topics, and the end ---

    async def register_topic(self, name: str) -> bool:
        """Register the topic for all processes of the bus; False if it was registered already."""
        if self._observes:
            raise only_looks(self.name)
        return bool(await self._ask(requests.RegisterTopic, check_topic(name)))

    async def unregister_topic(self, name: str) -> bool:
        """Remove the topic for all processes and drop its unsettled events; False if it was not registered."""
        name = check_topic(name)
        (await self._live()).publisher.forget_topic(name)
        return bool(await self._ask(requests.UnregisterTopic, name))

    async def close(self) -> None:
        """Leave the bus: waits for the handlers that run; what is unsettled goes to other processes. Repeated, it does
        nothing. Afterwards every call raises `BusClosed`."""
        await self._close(cancels=False)

    async def shutdown(self) -> None:
        """Stop the manager for all processes, drop all unsettled events, and close this handle.

        That somebody else shuts it down at the same time, or has done so, changes nothing.

        Raises:
            WaitTimeout: The manager did not end within `request_timeout_s`.
        """
        if sessions.is_in_process(self.name):
            await self._end_bus()
            return
        try:
            pid = (await self.statistics()).manager_pid  # Asked for: the one that this handle knows may have died.
            with manager_end(pid) as has_ended:
                await self._end_bus()
                await self._check_ended(pid, has_ended)
        except ManagerLost:
            lost = self._session
            if lost is None or not lost.connection.was_shut_down():
                raise
            await self.close()
            with manager_end(lost.connection.manager_pid) as has_ended:
                await self._check_ended(lost.connection.manager_pid, has_ended)

    async def _end_bus(self) -> None:
        await (await self._live()).tasks.finish()
        await self._ask(requests.ShutDown)
        await self.close()

    async def _check_ended(self, pid: int, has_ended: Callable[[float], bool]) -> None:
        patience_s = self.config.request_timeout_s
        if not await self._loop_here().in_thread(partial(has_ended, patience_s)):
            raise WaitTimeout(f"the manager of bus {self.name!r}, process {pid}, does not end")

    async def __aenter__(self) -> EventBus:
        await self._enter()
        try:
            return await self.connect()
        except BaseException:
            await self._leave()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            await self._close(cancels=kind is not None)
        finally:
            await self._leave()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<aio.EventBus {self.name!r}, {state}>"
