"""EventBus: the handle that users hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.client import sessions
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.client.listeners import broadcast_key, listener_of, pack_config, unpack_config, watcher_of
from eventbus_mp.client.loan import Loan, make_loan
from eventbus_mp.client.session import Session
from eventbus_mp.client.validation import check_credit, check_patterns, check_retries, check_timeout
from eventbus_mp.config import BusConfig, check_bus_name
from eventbus_mp.errors import BusClosed, UsageError, WaitTimeout
from eventbus_mp.events import Event, EventShadow, check_topic
from eventbus_mp.ids import unique_id
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.registered import register_type
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.runtime.launch import manager_end
from eventbus_mp.statistics import BusStatistics, Subscriber, SubscriberKey, Watcher

__all__ = ["EventBus"]

Function = TypeVar("Function", bound=Callable[..., Any])


class EventBus:
    """A handle of one bus. Cheap: it connects on first use, and starts the manager if there is none.

    It can be pickled, used from several threads, and is safe across a fork: the child connects anew on its first use.
    What the parent subscribed stays the parent's.

    Args:
        name: The bus; every process of this user that names it shares it.
        topics: Registered on connecting, besides `config.topics`.
        config: The settings; None: from `EVENTBUS_MP_*` variables.
        settings: Single fields of `BusConfig`, over the variables.

    Raises:
        UsageError: The name or a setting is not valid. Every method may also raise `ManagerLost` (the manager died or
            cannot be started) and `BusClosed` (after `close`).
    """

    def __init__(
        self, name: str, topics: Iterable[str] = (), *, config: BusConfig | None = None, **settings: Any
    ) -> None:
        self.name = check_bus_name(name)
        if config is not None and settings:
            raise UsageError(f"give either config or single settings ({', '.join(settings)}), not both")
        self.config = config if config is not None else BusConfig.from_environment(**settings)
        self._topics = tuple(check_topic(topic) for topic in (*self.config.topics, *topics))
        self._session: Session | None = None
        self._closed = False
        self._lock = NonReentrantLock()

    # --- topics ---

    def register_topic(self, name: str) -> bool:
        """Make the topic known to everybody; returns when it is. False when it was known already.

        Raises:
            InvalidTopic: The name is empty, over 255 characters, or has control characters.
        """
        return bool(self._ask(requests.RegisterTopic, check_topic(name)))

    def unregister_topic(self, name: str) -> bool:
        """Forget the topic and drop its unsettled events; False when it was not known."""
        self._live().publisher.forget_topic(name)
        return bool(self._ask(requests.UnregisterTopic, check_topic(name)))

    def topic_exists(self, name: str) -> bool:
        return bool(self._ask(requests.ResolveTopic, check_topic(name))[0])

    def topics(self) -> list[str]:
        """All topic names, sorted."""
        return list(self._ask(requests.ListTopics))

    # --- subscribers ---

    def subscribe(
        self, listener: Any, patterns: Iterable[str], *, broadcast: bool = False, credit: int | str = "auto"
    ) -> SubscriberKey:
        """Have `listener` called with the shadow of each event whose topic a pattern matches; returns when that holds.

        The listener settles the event with `mark_as_completed` or `mark_as_skipped`, now or later; when it raises,
        the error is logged and the event is skipped. It runs on one background thread of this process. Subscribing
        again replaces the patterns. Processes that subscribe the same listener (name and config) share its events.
        A child of multiprocessing that imports the program does not subscribe again what stands at its module's level.

        Args:
            listener: A callable, or an object, class or module with `process(shadow)`; or (listener, config), which is
                called with (shadow, config).
            patterns: Regular expressions that match from the beginning of a topic's name (`re.match`).
            broadcast: This process gets every event itself instead of sharing: its pid becomes part of the config.
            credit: How many unsettled shadows this process may hold; "auto": some milliseconds of work,
                which is one at a time for a listener that takes over 10 ms, also where it settles later. Give a number
                to have more in hand at once.

        Raises:
            InvalidPattern: A pattern does not compile; nothing was changed.
            UsageError: The listener cannot be called.
        """
        parts = listener_of(listener)
        if parts.call is None:
            raise UsageError(
                f"listener {listener!r} cannot be called; give a callable or something with process(shadow)"
            )
        key = broadcast_key(parts.key) if broadcast else parts.key
        hosting = key, check_patterns(patterns), check_credit(credit), broadcast
        self._listen(lambda session, host: session.shadow_handler(host, parts), *hosting)
        return key

    def on(
        self,
        *patterns: str,
        retries: int = 0,
        name: str | None = None,
        broadcast: bool = False,
        credit: int | str = "auto",
    ) -> Callable[[Function], Function]:
        """Decorate a function to be called with each event whose topic matches; it settles by itself.

        Returning completes the event, raising `Skip` skips it, raising anything else calls it again up to `retries`
        times, then skips the event and logs the error. The function stays as it is.
        """

        wanted, times = check_patterns(patterns), check_retries(retries)
        if not wanted:
            raise UsageError("on() needs a pattern: @bus.on('order_.*')")

        def subscribe(function: Function) -> Function:
            key = SubscriberKey(name) if name is not None else listener_of(function).key
            key = broadcast_key(key) if broadcast else key
            hosting = key, wanted, check_credit(credit), broadcast
            self._listen(lambda session, host: session.event_handler(host, function, times), *hosting)
            return function

        return subscribe

    def _listen(self, handler_for: Callable[..., Any], *hosting: Any) -> None:
        if not sessions.imports_program():
            session = self._live()
            session.listen(handler_for(session, session.host(*hosting)))

    def inbox(
        self, name: str, patterns: Iterable[str], *, broadcast: bool = False, credit: int | str = "auto"
    ) -> Inbox:
        """A mailbox called `name`: take shadows from it when you want. See `Inbox`."""
        session = self._live()
        key = broadcast_key(SubscriberKey(name)) if broadcast else SubscriberKey(name)
        return Inbox(session, session.host(key, check_patterns(patterns), check_credit(credit), broadcast), key)

    def subscribed(self, listener: Any, patterns: Iterable[str]) -> bool:
        """Whether the listener is subscribed, by any process, with exactly these patterns."""
        key = listener_of(listener).key
        return any(item.key == key and list(item.patterns) == check_patterns(patterns) for item in self.subscribers())

    def unsubscribe(self, listener: Any) -> bool:
        """Take the listener off the bus, in every process; what is queued for it is skipped. False: nobody was."""
        key = listener_of(listener).key
        session = self._live()
        known = session.find(key) or session.find(broadcast_key(key))
        gone = False
        for wanted in (key, broadcast_key(key)):
            gone |= bool(self._ask(requests.Unsubscribe, wanted.name, pack_config(wanted.config)))
        if known is not None:
            session.return_unstarted(known)
            session.forget(known)
        return gone

    def subscribers(self, topic: str | None = None) -> list[Subscriber]:
        """Everybody who is subscribed, or who gets this topic's events, in the order they came."""
        return [
            Subscriber(row["name"], unpack_config(row["config"]), tuple(row["patterns"]), tuple(row["pids"]))
            for row in self._ask(requests.ListSubscribers, topic)
        ]

    # --- events ---

    def notify(self, event: Event) -> EventShadow:
        """Publish the event to every subscriber of its topic; does not wait for them.

        Encodes, copies once into shared memory, and writes one record. When it has returned, the event will be
        delivered even if this process dies. Blocks while the bus's memory is full or the manager is behind.
        Either the event is published whole, or an error is raised and nothing was stored. An event that nobody is
        subscribed to is dropped with a warning, once a minute a topic; its shadow fetches None.

        Raises:
            UnknownTopic: The topic is not registered and `strict` is set; else that is a warning, too.
            EncodeError: The data holds something that cannot travel; the text names the path to it.
            EventTooLarge: It is over `event_bytes_max`, or over what the bus's memory can ever hold.
            BusFull: No memory became free within `notify_timeout_s`; the text says who holds it.
        """
        return (self._session or self._live()).publisher.notify(event)

    def notify_many(self, events: Iterable[Event]) -> list[EventShadow]:
        """Publish in order, with one write for many. All are encoded before the first is published.

        Arrays and buffers of events that come from a generator are copied once more, because it may reuse them.
        """
        return self._live().publisher.notify_many(events)

    def loan(
        self, topic: str, nbytes: int | None = None, *, shape: Any = None, dtype: Any = None, **fields: Any
    ) -> Loan:
        """Shared memory to fill in place in a `with` block, whose end publishes it without a copy: see `Loan`.

        The event's data is a memoryview of `nbytes` or, with `shape` and `dtype`, an ndarray; `fields` are the other
        ones of `Event`. Entering the block blocks and raises like `notify`; in it no lock is held.

        Raises:
            UsageError: A size, shape or field is not valid, or numpy is not installed.
        """
        if "id" not in fields:
            fields["id"] = (self.config.id_generator or unique_id)()
        return make_loan(self, self._live().publisher, topic, nbytes, shape, dtype, fields)

    register_type = staticmethod(register_type)

    def notify_and_wait(self, event: Event, timeout_s: float | None = None) -> Watcher:
        """Publish and wait until everybody has settled the event: its final watcher. See `drain` for handlers.

        Raises:
            WaitTimeout: `timeout_s` was over first. The event goes on.
        """
        check_timeout(timeout_s)
        session = self._live()
        connection = session.connection
        place = session.publisher.notify(event, awaited=True)._place
        if place is None:
            return Watcher()
        sequence = place.sequence
        protocol = connection.protocol
        if not connection.wait(lambda: protocol.has_reply(sequence), timeout_s):
            connection.call(protocol.cancel_wait, sequence)
            raise WaitTimeout(f"event {event.id!r} of topic {event.topic!r} is not settled after {timeout_s:g} s")
        return watcher_of(protocol.take_reply(sequence))

    def fetch_event(self, shadow: EventShadow | tuple[str, str]) -> Event | None:
        """The event, its data decoded on first use; None when it is settled, or was never stored.

        At once for a delivery that this process holds; one round trip otherwise. A bare (topic, id) is searched among
        the topic's unsettled events, the newest first. A large event is read in place: it keeps its memory as long as
        it, or a view into it, lives; `Event.copy` detaches it.
        """
        session = self._live()
        place = session.place_of(shadow)
        return session.fetcher.fetch(place) if place is not None else None

    def fetch_event_data(self, shadow: EventShadow | tuple[str, str]) -> Any:
        """The event's data; None when the event is settled."""
        event = self.fetch_event(shadow)
        return event.data if event is not None else None

    def mark_as_completed(self, listener: Any, shadow: EventShadow | tuple[str, str]) -> None:
        """Settle the event for this listener. Repeated, or late, it changes nothing.

        Raises:
            NotSubscribed: The listener was not told of this event.
        """
        self._mark(listener, shadow, Outcome.COMPLETED)

    def mark_as_skipped(self, listener: Any, shadow: EventShadow | tuple[str, str]) -> None:
        """Settle the event for this listener as skipped; else like `mark_as_completed`."""
        self._mark(listener, shadow, Outcome.SKIPPED)

    # --- watching ---

    def watcher(self, shadow: EventShadow | tuple[str, str]) -> Watcher | None:
        """Who was told of the event and who has settled it, this process just now, too; None when all have."""
        session = self._live()
        session.reporter.flush_all()
        place = session.place_of(shadow)
        reported = self._ask(requests.WatchEvent, place.topic, place.sequence) if place is not None else None
        return watcher_of(reported) if reported is not None else None

    def watchers(self, topic: str) -> dict[str, Watcher]:
        """id -> watcher of every unsettled event of the topic; of two with one id, the newest."""
        session = self._live()
        session.reporter.flush_all()
        return {event_id: watcher_of(reported) for event_id, reported in session.fetcher.watched(topic)}

    def statistics(self) -> BusStatistics:
        """A snapshot of the whole bus."""
        return self._live().statistics()

    def story(self, shadow: EventShadow | tuple[str, str]) -> list[str]:
        """What the manager remembers of the event, oldest first: bounded, so an old event's is empty."""
        place = self._live().place_of(shadow)
        return list(self._ask(requests.GetHistory, place.sequence)) if place is not None else []

    def drain(self, pattern: str = "", *, timeout_s: float | None = None) -> None:
        """Wait until no topic that the pattern matches has an unsettled event; what this process notified counts.

        A handler must not wait for its own event, nor for others that its thread handles.

        Raises:
            WaitTimeout: `timeout_s` was over first; the text says what is left.
        """
        check_timeout(timeout_s)
        self._live().drain(pattern, timeout_s)

    # --- the end ---

    def close(self) -> None:
        """Leave: listeners stop, what is in hand goes to other processes. The handle is of no use any more.

        A signal's handler may call it while its thread waits (for an inbox, say), not while that publishes or connects.
        """
        if self._session is not None:
            self._session.connection.transport.lock.refuse_reentry()
        with self._lock.held():
            session, self._session, self._closed = self._session, None, True
        if session is not None:
            sessions.close_session(session)

    def shutdown(self) -> None:
        """Stop the manager for everybody, unsettled events included, and close this handle.

        Returns when the manager has left and taken its files and its shared memory with it.

        Raises:
            WaitTimeout: It did not leave within `request_timeout_s`.
        """
        manager_pid = self.statistics().manager_pid  # asked for: what we know may be one that died
        with manager_end(manager_pid) as has_ended:
            self._live().stop_listening()
            self._ask(requests.ShutDown)
            self.close()
            if not has_ended(self.config.request_timeout_s):
                raise WaitTimeout(f"the manager of bus {self.name!r}, process {manager_pid}, does not leave")

    def __enter__(self) -> EventBus:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._session else "not connected"
        return f"<EventBus {self.name!r}, {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(EventBus, self.name, self._topics, config=self.config), ()

    # --- inside ---

    def become_worker(self) -> Session:
        """Connect this process as a worker: it runs listeners itself, and all its handles of this bus are one.

        For `WorkerPool`. A handler's own handle must be the connection that holds the delivery it settles.
        """
        session = Session.open(self.name, self.config, threaded=False)
        session.register_topics(self._topics)
        sessions.become_worker(session)
        return session

    def _live(self) -> Session:
        session = self._session
        if session is not None:
            return session
        with self._lock.held():
            if self._closed:
                raise BusClosed(f"this handle of bus {self.name!r} was closed; open another EventBus")
            if self._session is None:
                session = sessions.worker_session(self.name, self.config.run_dir) or Session.open(
                    self.name, self.config
                )
                sessions.keep_session(self, session)
                try:
                    session.register_topics(self._topics)
                except BaseException:
                    sessions.close_session(session)
                    raise
                self._session = session
            return self._session

    def _ask(self, kind: type[requests.Request], *fields: Any) -> Any:
        return self._live().connection.request(kind, *fields)

    def _mark(self, listener: Any, shadow: EventShadow | tuple[str, str], outcome: int) -> None:
        self._live().settle(listener_of(listener).key, shadow, outcome)

    def abandon(self) -> None:
        """In a forked child: begin again on next use. Called by itself."""
        self._lock = NonReentrantLock()
        self._session = None
