"""EventBus: the handle that users hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.client import sessions
from eventbus_mp.client.asking import AskingHandle
from eventbus_mp.client.changes import Changes
from eventbus_mp.client.connection import Connection, only_looks
from eventbus_mp.client.directions import direction_of
from eventbus_mp.client.forwarder import Forwarder
from eventbus_mp.client.handler_spec import HandlerSpec, handler_decorator
from eventbus_mp.client.hooks import InstrumentSource, check_instruments
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.client.instrumented import make_inbox
from eventbus_mp.client.listeners import broadcast_key, listener_of, watcher_of, wire_key
from eventbus_mp.client.loan import Loan, check_loan
from eventbus_mp.client.receipts import Receipts
from eventbus_mp.client.retries import RETRY_DELAY_MAX_S, Retries
from eventbus_mp.client.session import Session
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
    pair_of,
)
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import ManagerLost, UsageError, WaitTimeout
from eventbus_mp.events import Event, EventShadow, Place, check_topic
from eventbus_mp.ids import EventId
from eventbus_mp.lifecycle import FORK_MARK, notice_fork
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.runtime.endings import manager_end
from eventbus_mp.statistics import SubscriberKey, Watcher

__all__ = ["EventBus"]

Function = TypeVar("Function", bound=Callable[..., Any])


class EventBus(AskingHandle):
    """A handle of one bus. Making it is cheap: it connects on first use, and starts the manager if none is running.

    It can be pickled, used from several threads, and survives a fork: the child connects again on its first use. What
    the parent has subscribed stays the parent's. When the bus was lost, the handle comes back: see `on_lost`.

    The first call of any method connects, which blocks for at most `connect_timeout_s`. Other calls that need an answer
    of the manager block for at most `request_timeout_s`.

    Args:
        name: The bus; all processes of this user that name it share it.
        topics: Topics that are registered on connecting, in addition to `config.topics`.
        config: The settings; None: from `EVENTBUS_MP_*` variables.
        require: Names of subscribers. Publishing an event is refused while one of them does not get its topic. That is
            asked once for each topic; when one of them leaves, this process hears of it, and what it has published
            until then is delivered to the others. In a worker it holds for all handles of the bus.
        instruments: Objects of `Instrument`, or callables that make one in each process. They stay in this process: a
            pickled handle has none.
        settings: Single fields of `BusConfig`, which win over the variables.

    Raises:
        UsageError: The name, a topic or a setting is not valid, or there is no such setting.
        ManagerLost: From every method: the manager could not be started, or the bus was shut down; from one that waits
            for events, the manager and its standby have died.
        BusClosed: From every method after `close`.
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
    def attach(cls, name: str, *, config: BusConfig | None = None, **settings: Any) -> EventBus:
        """A handle that only looks at a bus that is running: for status pages and tools.

        It connects at once, which blocks for at most `connect_timeout_s`. It starts no manager and registers nothing,
        and the manager does not live on for it: when the last other process has left for `manager_idle_s`, the bus
        ends, and this handle raises `ManagerLost`. It can ask and fetch, settle, and shut the bus down; what publishes,
        subscribes or registers a topic raises `UsageError`.

        Args:
            name: The bus.
            config: As for `EventBus`; of the settings of the bus itself, those of the process that has started it hold.
            settings: As for `EventBus`.

        Raises:
            NoSuchBus: No manager of the bus is running.
            UsageError: The name or a setting is not valid.
            ManagerLost: The manager does not answer.
        """
        name, config, _ = bus_settings(name, (), config, settings)
        bus = cls._observer(name, config)
        bus._live()
        return bus

    @classmethod
    def _observer(cls, name: str, config: BusConfig) -> EventBus:
        """The handle of `attach`, not connected yet."""
        bus = cls(name, config=config)
        bus._observes, bus._starts, bus._topics = True, False, ()
        return bus

    @classmethod
    def _joined(cls, name: str, **settings: Any) -> EventBus:
        """A handle that takes part in a bus that is running, and starts none; connected, and raises as `attach`."""
        bus = cls(name, **settings)
        bus._starts = False
        bus._live()
        return bus

    # --- topics ---

    def register_topic(self, name: str) -> bool:
        """Register the topic for all processes of the bus; False if it was registered already.

        Blocks for one round trip. When it returns, every process can publish and subscribe to the topic.

        Raises:
            InvalidTopic: The name is empty, longer than 255 characters, or has a control character.
        """
        if self._observes:
            raise only_looks(self.name)
        return bool(self._ask(requests.RegisterTopic, check_topic(name)))

    def unregister_topic(self, name: str) -> bool:
        """Remove the topic for all processes and drop its unsettled events; False if it was not registered.

        Blocks for one round trip.

        Raises:
            InvalidTopic: The name cannot name a topic.
        """
        name = check_topic(name)
        self._live().publisher.forget_topic(name)
        return bool(self._ask(requests.UnregisterTopic, check_topic(name)))

    # --- subscribers ---

    def subscribe(
        self,
        listener: Any,
        patterns: Iterable[str],
        *,
        broadcast: bool = False,
        credit: int | str = "auto",
        threads: int = 1,
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> SubscriberKey:
        """Call `listener` with the shadow of each event whose topic a pattern matches.

        The listener settles the event with `mark_as_completed` or `mark_as_skipped`, in the call or later. If it
        raises, the error is logged and the event is skipped. It runs on a background thread of this process, which all
        its listeners share; those that broadcast share another one.

        Blocks for one round trip; events that are published after it returns are delivered. Subscribing again replaces
        the patterns. Processes that subscribe the same listener (name and config) share its events. When a child of
        multiprocessing imports the program again, or its fork server imports a module in advance, a subscription at the
        level of that module does nothing.

        Args:
            listener: A callable, or an object, class or module with `process(shadow)`; or (listener, config), which is
                called with (shadow, config).
            patterns: Regular expressions that match from the beginning of a topic's name (`re.match`).
            broadcast: This handle gets every event instead of sharing them: something of its own becomes part of the
                config.
            credit: How many unsettled events this process may hold for the listener. "auto": some milliseconds of work,
                which is one event for a listener that takes longer than 10 ms, even if it settles later. Give a number
                to hold more at once.
            threads: How many threads of this process call the listener at once. 1: none of its own. With more, the
                listener has so many for itself, must be safe to call from several at once, and gets its events in no
                order; "auto" is a credit for each of them.
            scope: Who shares the events where several hosts are joined by a bridge. "host": the processes of each host,
                so each host gets all events. "cluster": the processes of all hosts, so that one of them gets an event.
                "local": the processes of this host, and no event comes from another one. The newest subscription of a
                listener has the word. Without a bridge there is no difference.
            backlog_max, backlog_bytes_max: How many unsettled events, and bytes of them, the subscriber may have in all
                its processes; None: any number. The newest subscription has the word.
            when_full: Beyond that, "block" has producers wait in `notify`, for `notify_timeout_s`; "skip" skips what
                comes for this subscriber.

        Returns:
            The subscriber, whom `mark_as_completed` and its siblings take as well.

        Raises:
            InvalidPattern: A pattern does not compile; nothing was changed.
            UsageError: The listener cannot be called or is a coroutine or generator function, or another argument is
                not valid.
        """
        bound = check_backlog(backlog_max, backlog_bytes_max, when_full)
        spec = HandlerSpec.from_listener(
            listener, patterns, broadcast=broadcast, credit=credit, threads=threads, scope=scope, bound=bound
        )
        return self._host(spec)

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
        threads: int = 1,
        scope: str = "host",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> Callable[[Function], Function]:
        """Decorate a function that is called with each event whose topic a pattern matches.

        The function settles the event by how it ends. If it returns, the event is completed; if it raises `Skip`, the
        event is skipped; if it raises `Retry`, the event is delivered again; if it raises anything else, it is called
        again up to `retries` times, and then the error is logged and the event is skipped. The function itself is not
        changed. Decorating blocks for one round trip.

        With `batch`, the function gets a list of events. If it returns None, all of them are completed; if it raises,
        all end like one event that it raised for. Or it returns a list with an outcome for each event: None if it is
        completed, a `Skip` if it is skipped, another exception if it failed, which is not tried again.

        Args:
            patterns: As in `subscribe`; at least one.
            retries: How often it is called again after an exception; 0: not at all.
            retry_delay_s, retry_delay_max_s: How long to wait before the first of them, and at most, in seconds; each
                further one waits twice as long, and up to half of each wait is left to chance. The event then waits in
                the manager, holds no worker, and may come to another process. 0: it is called again at once.
            name: The subscriber's name; None: the function's module and qualified name.
            credit: As in `subscribe`; with `batch`, "auto" is two batches.
            batch: How many events the function gets at most; None: one, which is not in a list. With more than
                `credit_max`, no batch becomes full.
            within_s: How long an event waits for its batch to become full, in seconds; None: 0.05. Other handlers run
                meanwhile.
            threads: As in `subscribe`; not with `batch`.
            broadcast, scope, backlog_max, backlog_bytes_max, when_full: As in `subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: There is no pattern, calling what is decorated would not run it, or an argument is not valid.
        """
        return handler_decorator(
            self._host,
            patterns,
            retries=Retries(retries, retry_delay_s, retry_delay_max_s),
            name=name,
            broadcast=broadcast,
            credit=credit,
            batch=batch,
            within_s=within_s,
            threads=threads,
            scope=scope,
            bound=check_backlog(backlog_max, backlog_bytes_max, when_full),
        )

    def inbox(
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
        """Subscribe a mailbox called `name`, from which you take shadows when you want them: see `Inbox`.

        Blocks for one round trip. The arguments are those of `subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile; nothing was changed.
            UsageError: The name is empty, or another argument is not valid.
        """
        key = SubscriberKey(check_name(name))
        wanted, shadows = tuple(check_patterns(patterns)), check_credit(credit)
        shared = check_scope(scope, broadcast=broadcast)
        bound = check_backlog(backlog_max, backlog_bytes_max, when_full)
        how = Subscription(wanted, shadows, broadcast, scope=shared, bound=bound)

        def make(session: Session) -> Inbox:
            own = broadcast_key(key, session.identity) if broadcast else key
            return make_inbox(session, session.host(own, how), own)

        inbox = self._made(make)
        inbox._come_back_with(self, how)
        return inbox

    def forwarder(
        self,
        key: SubscriberKey,
        patterns: Iterable[str],
        *,
        credit: int | str = "auto",
        backlog_max: int | None = None,
        backlog_bytes_max: int | None = None,
        when_full: str = "block",
    ) -> Forwarder:
        """Host a subscriber in order to take its events to another host: see `Forwarder`. For bridges.

        If the key has a host, this is a subscriber of that host, which is known here by that name; without one, it is
        one of this host with the scope "cluster", whose events this process shares with those that handle them. What
        came from another host is not among what it gets. Blocks for one round trip.

        Args:
            key: Whom to host.
            patterns: As of `subscribe`.
            credit: How many unsettled events it may hold; "auto": for a subscriber of another host as many as
                `credit_max`, and otherwise some milliseconds of work.
            backlog_max, backlog_bytes_max, when_full: As of `subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile; nothing was changed.
            UsageError: The key or another argument is not valid, or this process handles the subscriber's events.
        """
        if not isinstance(key, SubscriberKey):
            raise UsageError(f"forwarder({key!r:.80}): give a SubscriberKey")
        check_name(key.name)
        if key.host is not None:
            check_name(key.host)
        scope = "cluster" if key.host is None else "host"
        bound = check_backlog(backlog_max, backlog_bytes_max, when_full)
        wanted, shadows = tuple(check_patterns(patterns)), check_credit(credit)
        how = Subscription(wanted, shadows, scope=scope, forwards=True, bound=bound)
        forwarder = self._on_live(lambda session: Forwarder(session, session.host(key, how), key))
        forwarder._come_back_with(self, how)
        self._inboxes.add(forwarder)
        return forwarder

    def unsubscribe(self, listener: Any) -> bool:
        """Unsubscribe the listener in every process; False if no process had subscribed it.

        Its queued deliveries are skipped. Blocks for two round trips, and does not wait for a call of the listener that
        is under way.

        Raises:
            UsageError: It is not a listener.
        """
        key = listener_of(listener).key
        session = self._live()
        own = broadcast_key(key, session.identity)
        known = session.find(key) or session.find(own)
        self._forget(key)
        gone = False
        for wanted in (key, own):
            gone |= bool(self._ask(requests.Unsubscribe, *wire_key(wanted)))
        if known is not None:
            session.return_unstarted(known)
            session.forget(known)
        return gone

    def changes(self) -> Changes:
        """Follow what is registered and subscribed, first of all what there is: see `Changes`.

        Connects, and does not wait for an answer. A handle of `attach` can follow as well.
        """
        changes = self._on_live(partial(Changes, self))
        self._inboxes.add(changes)
        return changes

    # --- events ---

    def notify(self, event: Event, *, timeout_s: float | None = None) -> EventShadow:
        """Publish the event to every subscriber of its topic, and return without waiting for them.

        It encodes the event, copies it once into shared memory, and writes one record. When it has returned, the event
        will be delivered even if this process dies. If it raises, nothing was published. It blocks while the bus's
        memory is full, or the backlog of a subscriber with a bound (up to `notify_timeout_s`), and while the manager is
        behind.

        An event of a topic without a subscriber is dropped with a warning, at most once a minute for each topic;
        fetching its shadow gives None.

        Args:
            event: Made here, or fetched.
            timeout_s: How long to wait for memory, and for room in a backlog, in seconds; None: `notify_timeout_s`. A
                web request may want 0.

        Raises:
            UnknownTopic: The topic is not registered and `strict` is set. Without `strict` that is a warning as well.
            NoSubscriber: A subscriber that `require` names does not get the topic.
            EncodeError: The data holds something that cannot travel; the text names the path to it.
            EventTooLarge: The event is larger than `event_bytes_max`, or than the bus's memory can ever hold.
            BusFull: No memory became free in time; the text names the processes that hold it. Or no room in a backlog;
                the text names the subscriber.
            UsageError: It is not an `Event`; or a signal handler publishes in the middle of a call of its thread.
        """
        if not FORK_MARK[0]:
            notice_fork()
        session = self._session or self._live()
        try:
            if timeout_s is None:
                return session.publisher.notify(event)
            return session.publisher.notify(event, timeout_s=check_timeout(timeout_s))
        except ManagerLost as error:
            return self._after_loss(session, error).publisher.notify(event, timeout_s=timeout_s)

    def notify_many(
        self, events: Iterable[Event], *, only: Iterable[Any] | None = None, timeout_s: float | None = None
    ) -> list[EventShadow]:
        """Publish events in their order, with one write for many of them; the shadows, in the same order.

        Blocks and raises like `notify`. All events are encoded before the first one is published, so an event that
        cannot be encoded publishes none. After `BusFull`, the error's `published` has the shadows of the first events,
        which were published; `events[len(error.published):]` are left.

        Args:
            events: A list or a tuple. From any other iterable, arrays and buffers are copied once more, because a
                generator may fill them again for its next event.
            only: These subscribers alone get the events, each given as a `SubscriberKey` or as `unsubscribe` takes it,
                whatever their patterns say; None: all that are subscribed to the topic. One that is not subscribed
                when the events arrive gets none.
            timeout_s: How long to wait for memory each time that it is used up, in seconds; None: `notify_timeout_s`.
        """
        timeout_s = check_timeout(timeout_s)
        around = None if only is None else direction_of(only)
        session = self._live()
        try:
            return session.publisher.notify_many(events, timeout_s, around)
        except ManagerLost as error:
            again = self._after_loss(session, error)
            if not isinstance(events, (list, tuple)):
                raise  # What a generator has given is gone.
            return again.publisher.notify_many(events, timeout_s, around)

    def receipts(self, name: str) -> Receipts:
        """Publish events, and be told what became of each, also as the next process of this name: see `Receipts`.

        Blocks for a round trip, and for more if another process of this name has left much.

        Args:
            name: Under which the bus keeps the receipts; one process at a time has it.

        Raises:
            UsageError: Another process has the name; its pid is said. Or it is not a text of one character or more.
        """
        return self._made(partial(Receipts, self, check_name(name)))

    def loan(
        self, topic: str, nbytes: int | None = None, *, shape: Any = None, dtype: Any = None, **fields: Any
    ) -> Loan:
        """Shared memory to fill in place in a `with` block, whose end publishes it without a copy: see `Loan`.

        Entering the block blocks and raises like `notify`. No lock is held inside it.

        Args:
            topic: The event's topic.
            nbytes: The size of the memory; the event's data is then a memoryview.
            shape: The shape of an array; the event's data is then an ndarray of this shape and `dtype`.
            dtype: The type of its elements, as numpy names it.
            fields: Other fields of `Event`, except `data`. Without `id`, the event gets a new one.

        Raises:
            UsageError: A size, shape or field is not valid, or numpy is needed and not installed.
        """
        return Loan(self, self._live(), check_loan(self.config, topic, nbytes, shape, dtype, fields))

    def notify_and_wait(self, event: Event, *, timeout_s: float | None = None) -> Watcher:
        """Publish the event, and block until all its deliveries are settled; the event's final watcher.

        Publishing blocks and raises like `notify`. A handler must not wait for its own event, nor for events that its
        own thread handles.

        Args:
            event: The event.
            timeout_s: How long to wait, in seconds; None: for ever.

        Raises:
            WaitTimeout: The event is not settled after `timeout_s`. It stays published, and may be settled later.
            UsageError: `timeout_s` is not a number.
        """
        timeout_s = check_timeout(timeout_s)

        def publish(session: Session) -> tuple[Connection, Place | None]:
            return session.connection, session.publisher.notify(event, awaited=True)._place

        connection, place = self._on_live(publish)
        if place is None:
            return Watcher()
        sequence = place.sequence
        if not connection.await_event(sequence, timeout_s):
            raise WaitTimeout(f"event {event.id!r} of topic {event.topic!r} is not settled after {timeout_s:g} s")
        return watcher_of(connection.protocol.take_reply(sequence))

    def fetch_event(self, shadow: EventShadow | tuple[str, EventId]) -> Event | None:
        """The event of a shadow; None if it is settled, or was dropped because it had no subscriber.

        Does not block for a delivery that this process holds; blocks for one round trip otherwise. The event's data is
        decoded when it is first used. An event larger than 16 KiB is read in place: its memory stays in use as long as
        the event, or a view into it, exists. `Event.copy` detaches it.

        Args:
            shadow: A shadow; or a pair (topic, id), for which the topic's unsettled events are searched. If two of them
                share the id, the newest is fetched.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        if not FORK_MARK[0]:
            notice_fork()
        session = self._session or self._live()
        try:
            return session.fetch(shadow)
        except ManagerLost as error:
            return self._after_loss(session, error).fetch(shadow)

    def fetch_event_data(self, shadow: EventShadow | tuple[str, EventId]) -> Any:
        """The data of `fetch_event`; None if that is None.

        Raises:
            DecodeError: The data holds a type that is not registered in this process.
            UsageError: It is neither a shadow nor a pair.
        """
        event = self.fetch_event(shadow)
        return event.data if event is not None else None

    def mark_as_completed(self, listener: Any, shadow: EventShadow | tuple[str, EventId]) -> None:
        """Settle the event for this listener as completed. If it is settled already, this changes nothing.

        Any process may do so, whichever holds the delivery. Does not block if this process holds it; then it is
        reported like `Inbox.complete`, the short form for what was taken from an inbox. Blocks for one round trip
        otherwise.

        Args:
            listener: What was subscribed; or the subscriber that `subscribe` returned, or its name, or an inbox.
            shadow: A shadow, or a pair (topic, id) as for `fetch_event`.

        Raises:
            NotSubscribed: The event was not delivered to this listener.
            UsageError: It is not a listener, or neither a shadow nor a pair.
        """
        self._on_live(lambda session: session.settle(listener, (shadow,), Outcome.COMPLETED))

    def mark_as_skipped(self, listener: Any, shadow: EventShadow | tuple[str, EventId]) -> None:
        """Settle the event for this listener as skipped; otherwise like `mark_as_completed`. See also `Inbox.skip`."""
        self._on_live(lambda session: session.settle(listener, (shadow,), Outcome.SKIPPED))

    def mark_many(
        self,
        listener: Any,
        shadows: Iterable[EventShadow | tuple[str, EventId]],
        outcome: str = "completed",
        *,
        reason: str = "",
    ) -> None:
        """Settle events for this listener, all in the same way: like `mark_as_completed` for each of them.

        Does not block for deliveries that this process holds, and blocks for one round trip for each 10,000 others, and
        for one for each pair.

        Args:
            listener: As for `mark_as_completed`.
            shadows: Shadows, or pairs (topic, id).
            outcome: "completed" or "skipped".
            reason: Why they are skipped; `EventBus.statistics` shows it.

        Raises:
            NotSubscribed: One of the events was not delivered to this listener; all others are settled.
            UsageError: It is not a listener, one is neither a shadow nor a pair, or `outcome` is neither of the two;
                nothing is settled.
        """
        wanted, number = check_mark(shadows, outcome, reason)
        for shadow in wanted:
            if type(shadow) is not EventShadow:
                pair_of(shadow)
        self._on_live(lambda session: session.settle(listener, wanted, number, reason))

    def drain(self, pattern: str = "", *, timeout_s: float | None = None) -> None:
        """Block until no topic that the pattern matches has an unsettled event.

        Everything that this process has published before counts. A handler must not wait for its own event, nor for
        events that its own thread handles.

        Args:
            pattern: A regular expression that matches from the beginning of a topic's name; "": all topics.
            timeout_s: How long to wait, in seconds; None: for ever.

        Raises:
            WaitTimeout: There are unsettled events after `timeout_s`; the text says which processes hold them.
            InvalidPattern: The pattern does not compile.
            UsageError: `timeout_s` is not a number.
        """
        timeout_s = check_timeout(timeout_s)
        session = self._live()
        session.connection.run(session.drain(pattern, timeout_s))

    # --- the end ---

    def shutdown(self) -> None:
        """Stop the manager for all processes, drop all unsettled events, and close this handle.

        Blocks until the manager has ended and has removed its files and its shared memory. That somebody else shuts it
        down at the same time, or has done so, changes nothing.

        Raises:
            WaitTimeout: The manager did not end within `request_timeout_s`.
        """
        if sessions.is_in_process(self.name):
            self._end_bus()
            return
        try:
            pid = self.statistics().manager_pid  # Asked for: the one that this handle knows may have died.
            with manager_end(pid) as has_ended:
                self._end_bus()
                self._check_ended(pid, has_ended)
        except ManagerLost:
            lost = self._session
            if lost is None or not lost.connection.was_shut_down():
                raise
            self.close()
            with manager_end(lost.connection.manager_pid) as has_ended:
                self._check_ended(lost.connection.manager_pid, has_ended)

    def _end_bus(self) -> None:
        self._live().stop_listening()
        self._ask(requests.ShutDown)
        self.close()

    def _check_ended(self, pid: int, has_ended: Callable[[float], bool]) -> None:
        if not has_ended(self.config.request_timeout_s):
            raise WaitTimeout(f"the manager of bus {self.name!r}, process {pid}, does not end")

    def __enter__(self) -> EventBus:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self.connected else "not connected"
        return f"<EventBus {self.name!r}, {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._observes:
            return partial(EventBus._observer, self.name, self.config), ()
        return partial(EventBus, self.name, self._topics, config=self.config, require=self._required), ()
