"""A session with instruments: the same parts, each with hooks around its calls. Chosen once, when a session begins.

What has no hook is the plain part, so a session without instruments has nothing of this on any of its paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from eventbus_mp.client.connect import open_connection
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.crews import Threads
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.hooks import Hooks
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.client.plain_calls import refuse_unrun
from eventbus_mp.client.publisher import Around, Publisher
from eventbus_mp.client.session import Session
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.client.steps import Steps
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.client.unclaimed import UnclaimedShadow
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import Retry, Skip
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.ids import EventId
from eventbus_mp.instrument import Deliveries
from eventbus_mp.memory.payload import sequence_of, with_envelope
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.memory.store import SegmentStore
from eventbus_mp.memory.written import EncodedEvent
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.statistics import SubscriberKey

__all__ = [
    "DeliveryOf",
    "HandlerCall",
    "InstrumentedInbox",
    "InstrumentedPublisher",
    "InstrumentedSession",
    "SettlingInbox",
    "fetching",
    "make_inbox",
    "make_session",
    "open_session",
    "outcome_of",
    "receiving",
]

T = TypeVar("T")

OUTCOMES = {int(Outcome.COMPLETED): "completed", int(Outcome.SKIPPED): "skipped"}
"""What hooks call an outcome that a program gives by hand."""


def open_session(
    bus: str,
    config: BusConfig,
    hooks: Hooks | None,
    *,
    threads: Threads = Threads.ALL,
    observes: bool = False,
    starts: bool = True,
) -> Session:
    """Connect to the bus, perhaps only to look (`observes`), or only if it runs; raises as `open_connection`."""
    connection = open_connection(bus, config, starts=starts)
    session = make_session(connection, SHARED_MEMORY, hooks, threads=threads)
    if config.show_stacks:
        session.answer_for_stacks()
    if observes:
        session.observe()
    return session


def make_session(
    connection: Connection, store: SegmentStore, hooks: Hooks | None, *, threads: Threads = Threads.ALL
) -> Session:
    """The session of a new connection, with hooks if there are any."""
    if hooks is None:
        return Session(connection, store, threads=threads)
    return InstrumentedSession(connection, store, hooks=hooks, threads=threads)


def make_inbox(session: Session, endpoint: ClientEndpoint, key: SubscriberKey) -> Inbox:
    """An inbox over an endpoint, with hooks if its session has such."""
    if isinstance(session, InstrumentedSession):
        if session.hooks.has("settle"):
            return SettlingInbox(session, endpoint, key)
        if session.hooks.has("receive"):
            return InstrumentedInbox(session, endpoint, key)
    return Inbox(session, endpoint, key)


class InstrumentedSession(Session):
    """A session whose calls have hooks before and after them.

    Args:
        connection: As of `Session`.
        store: As of `Session`.
        hooks: The hooks.
        more: Other arguments of the plain session that this one is.
    """

    def __init__(self, connection: Connection, store: SegmentStore, *, hooks: Hooks, **more: Any) -> None:
        self.hooks = hooks
        hooks.lock = connection.transport.lock
        super().__init__(connection, store, **more)
        bus = connection.bus
        connection.before_takeover = lambda pid: hooks.before("takeover", bus, pid)
        connection.after_takeover = lambda pid: hooks.after("takeover", bus, pid, None)

    def _make_publisher(self, connection: Connection, span_pool: SpanPool) -> Publisher:
        if self.hooks.has("notify"):
            return InstrumentedPublisher(connection, span_pool, self.hooks)
        return super()._make_publisher(connection, span_pool)

    def _bracketed(self, endpoint: ClientEndpoint, call: Callable[..., Any]) -> Callable[..., Any]:
        return HandlerCall(self.hooks, DeliveryOf(endpoint, self.fetcher), call) if self.hooks.has("handle") else call

    def hosting(self, key: SubscriberKey, how: Subscription) -> Steps[ClientEndpoint]:
        """See `Session.hosting`."""
        with self.hooks.bracket("subscribe", key, how.patterns):
            return (yield from super().hosting(key, how))

    def fetch(self, shadow: EventShadow | tuple[str, EventId]) -> Event | None:
        """See `Session.fetch`."""
        with fetching(self.hooks, shadow) as found:
            found.append(super().fetch(shadow))
        return found[0]

    def settle(
        self, listener: Any, shadows: Iterable[EventShadow | tuple[str, EventId]], outcome: int, reason: str = ""
    ) -> None:
        """See `Session.settle`."""
        self.connection.run(self.settling(listener, shadows, outcome, reason))

    def settling(
        self, listener: Any, shadows: Iterable[EventShadow | tuple[str, EventId]], outcome: int, reason: str = ""
    ) -> Steps[None]:
        """See `Session.settling`. A pair is looked up once, and refused if it is none."""
        found = []
        for shadow in shadows:
            place = yield from self.placing(shadow)
            found.append(shadow if isinstance(shadow, EventShadow) else EventShadow(*shadow, place))
        with self.hooks.bracket("settle", self.endpoint_of(listener)[1], tuple(found), OUTCOMES[outcome]):
            yield from super().settling(listener, found, outcome, reason)


@contextmanager
def fetching(hooks: Hooks, shadow: EventShadow | tuple[str, EventId]) -> Iterator[list[Event | None]]:
    """Call the hooks of fetching before and after the block, which appends what it has found."""
    found: list[Event | None] = []
    hooks.before("fetch", shadow)
    try:
        yield found
    except BaseException as error:
        hooks.after("fetch", shadow, None, error)
        raise
    hooks.after("fetch", shadow, found[0], None)


class InstrumentedPublisher(Publisher):
    """A publisher with the hooks of `before_notify` and `after_notify`."""

    def __init__(self, connection: Connection, span_pool: SpanPool, hooks: Hooks) -> None:
        super().__init__(connection, span_pool)
        self._hooks = hooks

    def notify(self, event: Event, *, awaited: bool = False, timeout_s: float | None = None) -> EventShadow:
        """See `Publisher.notify`. As there, the steps are left out: they are a third of its time."""
        if not isinstance(event, Event):
            return super().notify(event, awaited=awaited)  # which refuses it
        self.refuse_reentry()
        (wanted,) = self._hooks.before_notify((event,))
        try:
            shadow = super().notify(wanted, awaited=awaited, timeout_s=timeout_s)
        except BaseException as error:
            self._hooks.after("notify", (wanted,), (), error)
            raise
        self._hooks.after("notify", (wanted,), (shadow,), None)
        return shadow

    def notifying(self, event: Event, awaited: bool, timeout_s: float | None = None) -> Steps[EventShadow]:
        """See `Publisher.notifying`."""
        if not isinstance(event, Event):
            return (yield from super().notifying(event, awaited, timeout_s))  # which refuses it
        self.refuse_reentry()
        (wanted,) = self._hooks.before_notify((event,))
        shadows: list[EventShadow] = []
        with self._bracket((wanted,), shadows):
            shadows.append((yield from super().notifying(wanted, awaited, timeout_s)))
        return shadows[0]

    def notify_now(self, event: Event, awaited: bool) -> EventShadow | None:
        """See `Publisher.notify_now`. Nothing is: the hooks are called by the steps."""
        return None

    def notifying_many(
        self, events: Iterable[Event], timeout_s: float | None = None, around: Around | None = None
    ) -> Steps[list[EventShadow]]:
        """See `Publisher.notifying_many`."""
        self.refuse_reentry()
        if isinstance(events, (list, tuple)):
            if not all(isinstance(event, Event) for event in events):
                return (yield from super().notifying_many(events))  # which refuses them
            wanted = self._hooks.before_notify(tuple(events))
            steps = super().notifying_many(list(wanted), timeout_s, around)
        else:
            # Each event is encoded as it comes: what its data is made of may be used again for the next one.
            prepared = self._prepare(events)
            wanted = self._hooks.before_notify(tuple(event for event, _ in prepared))
            steps = self._publishing(_with_envelopes(wanted, prepared), timeout_s, around)
        shadows: list[EventShadow] = []
        with self._bracket(wanted, shadows):
            shadows += yield from steps
        return shadows

    def before_loan(self, event: Event, encoded: EncodedEvent) -> tuple[Event, EncodedEvent]:
        """See `Publisher.before_loan`."""
        (wanted,) = self._hooks.before_notify((event,))
        ((_, encoded),) = _with_envelopes((wanted,), [(event, encoded)])
        return wanted, encoded

    def after_loan(self, event: Event, shadow: EventShadow | None, error: BaseException | None) -> None:
        """See `Publisher.after_loan`."""
        self._hooks.after("notify", (event,), (shadow,) if shadow is not None else (), error)

    @contextmanager
    def _bracket(self, events: Sequence[Event], shadows: list[EventShadow]) -> Iterator[None]:
        """Call the hooks after the block, which appends the shadows of the events."""
        try:
            yield
        except BaseException as error:
            self._hooks.after("notify", events, (), error)
            raise
        self._hooks.after("notify", events, tuple(shadows), None)


def _with_envelopes(
    wanted: Sequence[Event], prepared: list[tuple[Event, EncodedEvent]]
) -> list[tuple[Event, EncodedEvent]]:
    """What was encoded already, with the envelopes of the events that hooks have replaced."""
    return [
        (event, encoded if event is before else with_envelope(encoded, event))
        for event, (before, encoded) in zip(wanted, prepared, strict=True)
    ]


class DeliveryOf:
    """The `DeliveryReader` of one endpoint."""

    def __init__(self, endpoint: ClientEndpoint, fetcher: EventFetcher) -> None:
        self.endpoint = endpoint
        self._fetcher = fetcher

    def event(self, item: Event | EventShadow) -> Event | None:
        """See `DeliveryReader.event`."""
        if isinstance(item, Event):
            return item
        record = self.endpoint.in_flight.get(_sequence_of(item))
        return self._fetcher.delivered_event(record) if record is not None else None

    def attempt(self, item: Event | EventShadow) -> int:
        """See `DeliveryReader.attempt`."""
        return self.endpoint.attempt_of(_sequence_of(item)) if self.endpoint.attempts else 1


class _ReadAlready(DeliveryOf):
    """Of deliveries that were taken with their events."""

    def __init__(self, endpoint: ClientEndpoint, fetcher: EventFetcher, events: dict[int, Event]) -> None:
        super().__init__(endpoint, fetcher)
        self._events = events

    def event(self, item: Event | EventShadow) -> Event | None:
        """See `DeliveryReader.event`."""
        return self._events[_sequence_of(item)]


def _sequence_of(item: Event | EventShadow) -> int:
    """Of a delivery, which has a place."""
    if isinstance(item, Event):
        return sequence_of(item)
    assert item._at is not None
    return item._at[4]


class HandlerCall:
    """The user's function with the hooks of `before_handle` and `after_handle`; equal if the function is."""

    def __init__(self, hooks: Hooks, reader: DeliveryOf, call: Callable[..., Any]) -> None:
        self._hooks = hooks
        self._reader = reader
        self._subscriber = reader.endpoint.key
        self._call = call

    def __call__(self, item: Event | EventShadow | list[Event], *arguments: Any) -> Any:
        items = self._before(item)
        try:
            result = self._call(item, *arguments)
            if result is not None:
                refuse_unrun(result)
        except BaseException as error:
            self._after_error(items, error, outcome_of(error))
            raise
        self._after(item, items, result)
        return result

    def _before(self, item: Event | EventShadow | list[Event]) -> Deliveries:
        items = Deliveries.of(item if isinstance(item, list) else (item,), self._reader)
        self._hooks.before("handle", self._subscriber, items)
        return items

    def _after(self, item: Event | EventShadow | list[Event], items: Deliveries, result: Any) -> None:
        self._hooks.after("handle", self._subscriber, items, _outcomes(item, result), None)

    def _after_error(self, items: Deliveries, error: BaseException, outcome: str) -> None:
        self._hooks.after("handle", self._subscriber, items, (outcome,) * len(items), error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HandlerCall) and self._call == other._call

    def __hash__(self) -> int:
        return hash(self._call)


def _outcomes(item: Event | EventShadow | list[Event], result: Any) -> tuple[str, ...]:
    """How the items of a call that has returned are settled."""
    if type(item) is not list:
        return ("open",) if isinstance(item, EventShadow) else ("completed",)
    if result is None:
        return ("completed",) * len(item)
    return tuple(map(outcome_of, result))


def outcome_of(end: BaseException | None) -> str:
    """What hooks call the end of a call that has raised this; None: it has returned."""
    if end is None:
        return "completed"
    return "skipped" if isinstance(end, Skip) else "retried" if isinstance(end, Retry) else "failed"


@contextmanager
def receiving(session: InstrumentedSession, endpoint: ClientEndpoint, limit: int) -> Iterator[list[Any]]:
    """Call the hooks of taking from an inbox before and after the block, which appends what it has taken."""
    hooks, taken = session.hooks, list[Any]()
    hooks.before("receive", endpoint.key, limit)
    try:
        yield taken
    except BaseException as error:
        hooks.after("receive", endpoint.key, _deliveries(session, endpoint, []), error)
        raise
    hooks.after("receive", endpoint.key, _deliveries(session, endpoint, taken), None)


def _deliveries(session: Session, endpoint: ClientEndpoint, taken: list[Any]) -> Deliveries:
    """What was taken: shadows, or pairs of a shadow and its event."""
    parts = endpoint, session.fetcher
    if taken and isinstance(taken[0], tuple):
        events = {_sequence_of(shadow): event for shadow, event in taken}
        return Deliveries.of([shadow for shadow, _ in taken], _ReadAlready(*parts, events))
    shadows = [shadow.unlooked() if isinstance(shadow, UnclaimedShadow) else shadow for shadow in taken]
    return Deliveries.of(shadows, DeliveryOf(*parts))


class InstrumentedInbox(Inbox):
    """An inbox with the hooks of `before_receive` and `after_receive`."""

    _session: InstrumentedSession

    def _take(self, limit: int, timeout_s: float | None, read: Callable[[Record], T | None]) -> list[T]:
        with receiving(self._session, self._endpoint, limit) as taken:
            taken += super()._take(limit, timeout_s, read)
        return taken


class SettlingInbox(InstrumentedInbox):
    """One that settles everything through its session, whose `settle` has the hooks."""

    def complete(self, shadow: EventShadow) -> None:
        """See `Inbox.complete`."""
        self._settle_many([shadow], Outcome.COMPLETED)

    def _settle(self, shadow: EventShadow, outcome: int, reason: str = "") -> None:
        self._settle_many([shadow], outcome, reason)
