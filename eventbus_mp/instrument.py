"""Instrument: hooks around everything that a process does on a bus, for tracing, metrics and logs of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eventbus_mp.events import Event, EventShadow
from eventbus_mp.ids import EventId
from eventbus_mp.statistics import SubscriberKey

__all__ = ["Deliveries", "DeliveryReader", "Instrument"]


class DeliveryReader(Protocol):
    """What knows more of deliveries that this process has. `client/instrumented.py` has it."""

    def event(self, item: Event | EventShadow) -> Event | None:
        """The event of a delivery."""

    def attempt(self, item: Event | EventShadow) -> int:
        """Which attempt this is at a delivery."""


class Deliveries(tuple[Event | EventShadow, ...]):
    """The events or shadows that a hook gets, as a tuple; what else there is to say of them is read when it is asked.

    Ask in the hook: afterwards the deliveries may be settled.
    """

    _reader: DeliveryReader

    @classmethod
    def of(cls, items: Sequence[Event | EventShadow], reader: DeliveryReader) -> Deliveries:
        """The deliveries of these items."""
        made = cls(items)
        made._reader = reader
        return made

    def first(self, count: int) -> Deliveries:
        """The first of them."""
        return Deliveries.of(self[:count], self._reader)

    @property
    def events(self) -> tuple[Event | None, ...]:
        """The event of each; None for one that is settled here, or cannot be read. Nothing is decoded."""
        return tuple(map(self._reader.event, self))

    @property
    def attempts(self) -> tuple[int, ...]:
        """Which attempt this is at each; 1: the first. Attempts whose process crashed count as well."""
        return tuple(map(self._reader.attempt, self))


class Instrument:
    """Derive a class, override the hooks that you need, and give an object of it to `EventBus(instruments=[...])`.

    Each hook does nothing here, and only hooks that are overridden are called. Without an instrument, nothing is added
    to any call. (The idea is that of trio's `Instrument`.)

    - A `before_` hook and its `after_` hook are called by one thread, in the context of the call that they surround; so
      what one sets in a `contextvars.ContextVar`, the call and the other one see. With several instruments, the
      `after_` hooks are called in the reverse order.
    - An `after_` hook is called whether or not the call has raised: `error` is what it raised, or None. No lock of the
      bus is held.
    - A hook that raises is logged with its traceback, and its instrument is removed from the session: none of its hooks
      is called again until the handle connects anew. The call goes on as if there had been no hook.
    - A hook may use the bus. No hook is called for what a hook does, in its own thread or in a task that it makes. Do
      not publish an event each time that an event is handled: it would be handled as well, and cause the next one.
    - Hooks are called by the threads of the calls, several at once if the bus is used by several threads. They block
      the call as long as they run.

    Instruments belong to a process. A pickled `EventBus` does not take them along; a `WorkerPool` sends those of its
    bus to its workers, so there they must be importable or picklable. In place of an object, a class or another
    callable without arguments may be given: it is called when the session begins, in each process anew.
    """

    # --- the session ---

    def before_connect(self, bus: str) -> None:
        """A handle of the bus called `bus` is used for the first time, and connects."""

    def after_connect(self, bus: str, error: BaseException | None) -> None:
        """It is connected, or could not be."""

    def before_takeover(self, bus: str, manager_pid: int) -> None:
        """The manager has died, and process `manager_pid` goes on in its place.

        Called by the thread that reads for all others: a hook that asks the manager something is refused.
        """

    def after_takeover(self, bus: str, manager_pid: int, error: BaseException | None) -> None:
        """The new manager knows what has arrived here; nothing is lost, and nothing comes twice.

        Called by the same thread, when its turn of reading is over: it may ask the manager.
        """

    def before_subscribe(self, subscriber: SubscriberKey, patterns: Sequence[str]) -> None:
        """This process subscribes a listener, a handler or an inbox."""

    def after_subscribe(self, subscriber: SubscriberKey, patterns: Sequence[str], error: BaseException | None) -> None:
        """It is subscribed: what is published from now on is delivered."""

    # --- events ---

    def before_notify(self, events: Sequence[Event]) -> Sequence[Event] | None:
        """Events are published: one by `notify` and its siblings or a loan, all at once by `notify_many`.

        Returns:
            None: publish them as they are. Otherwise the events to publish in their place, as many, with the ids and
            topics that these have. The envelope may differ; of a loan, and of what `notify_many` takes from a
            generator, only the envelope is looked at.
        """
        return None

    def after_notify(
        self, events: Sequence[Event], shadows: Sequence[EventShadow], error: BaseException | None
    ) -> None:
        """They are published, and `shadows` are theirs; if it failed, there are none.

        After `BusFull`, the first events of `notify_many` may have been published all the same.
        """

    def before_fetch(self, shadow: EventShadow | tuple[str, EventId]) -> None:
        """`fetch_event` or `fetch_event_data` was called."""

    def after_fetch(
        self, shadow: EventShadow | tuple[str, EventId], event: Event | None, error: BaseException | None
    ) -> None:
        """The event was fetched; None: it is settled."""

    def before_receive(self, subscriber: SubscriberKey, limit: int) -> None:
        """An inbox is asked for up to `limit` shadows or events; `get` asks for one. The call may wait for them."""

    def after_receive(self, subscriber: SubscriberKey, shadows: Deliveries, error: BaseException | None) -> None:
        """These were taken; none: nothing came in time, or the call has raised."""

    def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
        """The function of this subscriber is called: with one event, with a batch, or (`subscribe`) with a shadow."""

    def after_handle(
        self,
        subscriber: SubscriberKey,
        items: Deliveries,
        outcomes: Sequence[str],
        error: BaseException | None,
    ) -> None:
        """The function has returned or raised; if it is called again (`retries`), both hooks are.

        `outcomes` has one of these for each item: "completed", "skipped", "retried" (it raised `Retry`), "failed" (it
        raised anything else, and may be called again), "returned" (its task was cancelled), or "open" for a shadow that
        its listener settles itself.
        """

    def before_settle(self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str) -> None:
        """A program settles by hand (`mark_as_completed`, `Inbox.complete` and their siblings).

        `outcome` is "completed" or "skipped". `after_handle` gets what a handler settles by returning or raising.
        """

    def after_settle(
        self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str, error: BaseException | None
    ) -> None:
        """It is settled here, and is or will be reported."""
