"""EventBus: the handle that users hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from eventbus_mp.client import sessions
from eventbus_mp.client.handler_spec import HandlerSpec, handler_decorator
from eventbus_mp.client.inbox import Inbox
from eventbus_mp.client.listeners import broadcast_key, listener_of, pack_config, unpack_config, watcher_of
from eventbus_mp.client.loan import Loan, make_loan
from eventbus_mp.client.session import Session
from eventbus_mp.client.validation import check_credit, check_name, check_patterns, check_timeout
from eventbus_mp.config import BusConfig, check_bus_name
from eventbus_mp.errors import BusClosed, UsageError, WaitTimeout
from eventbus_mp.events import Event, EventShadow, check_topic
from eventbus_mp.ids import unique_id
from eventbus_mp.lifecycle import imports_program
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.registered import register_type
from eventbus_mp.protocol import requests
from eventbus_mp.protocol.messages import Outcome
from eventbus_mp.runtime.launch import manager_end
from eventbus_mp.statistics import BusStatistics, Subscriber, SubscriberKey, Watcher

__all__ = ["EventBus"]

Function = TypeVar("Function", bound=Callable[..., Any])


class EventBus:
    """A handle of one bus. Making it is cheap: it connects on first use, and starts the manager if none is running.

    It can be pickled, used from several threads, and survives a fork: the child connects again on its first use. What
    the parent has subscribed stays the parent's.

    The first call of any method connects, which blocks for at most `connect_timeout_s`. Other calls that need an answer
    of the manager block for at most `request_timeout_s`.

    Args:
        name: The bus; all processes of this user that name it share it.
        topics: Topics that are registered on connecting, in addition to `config.topics`.
        config: The settings; None: from `EVENTBUS_MP_*` variables.
        settings: Single fields of `BusConfig`, which win over the variables.

    Raises:
        UsageError: The name, a topic or a setting is not valid, or there is no such setting.
        ManagerLost: From every method: the manager died together with its standby, or could not be started.
        BusClosed: From every method after `close`.
    """

    def __init__(
        self, name: str, topics: Iterable[str] = (), *, config: BusConfig | None = None, **settings: Any
    ) -> None:
        self.name = check_bus_name(name)
        if config is not None and settings:
            raise UsageError(f"give either config or single settings ({', '.join(settings)}), not both")
        self.config = config if config is not None else BusConfig.from_environment(**settings)
        self._topics = tuple(dict.fromkeys(check_topic(topic) for topic in (*self.config.topics, *topics)))
        self._session: Session | None = None
        self._closed = False
        self._lock = NonReentrantLock()

    # --- topics ---

    def register_topic(self, name: str) -> bool:
        """Register the topic for all processes of the bus; False if it was registered already.

        Blocks for one round trip. When it returns, every process can publish and subscribe to the topic.

        Raises:
            InvalidTopic: The name is empty, longer than 255 characters, or has a control character.
        """
        return bool(self._ask(requests.RegisterTopic, check_topic(name)))

    def unregister_topic(self, name: str) -> bool:
        """Remove the topic for all processes and drop its unsettled events; False if it was not registered.

        Blocks for one round trip.

        Raises:
            InvalidTopic: The name cannot name a topic.
        """
        self._live().publisher.forget_topic(name)
        return bool(self._ask(requests.UnregisterTopic, check_topic(name)))

    def topic_exists(self, name: str) -> bool:
        """Whether the topic is registered. Blocks for one round trip.

        Raises:
            InvalidTopic: The name cannot name a topic.
        """
        return bool(self._ask(requests.ResolveTopic, check_topic(name))[0])

    def topics(self) -> list[str]:
        """The names of all registered topics, sorted. Blocks for one round trip."""
        return list(self._ask(requests.ListTopics))

    # --- subscribers ---

    def subscribe(
        self, listener: Any, patterns: Iterable[str], *, broadcast: bool = False, credit: int | str = "auto"
    ) -> SubscriberKey:
        """Call `listener` with the shadow of each event whose topic a pattern matches.

        The listener settles the event with `mark_as_completed` or `mark_as_skipped`, in the call or later. If it
        raises, the error is logged and the event is skipped. It runs on one background thread of this process.

        Blocks for one round trip; events that are published after it returns are delivered. Subscribing again replaces
        the patterns. Processes that subscribe the same listener (name and config) share its events. When a child of
        multiprocessing imports the program again, a subscription at the level of its module does nothing.

        Args:
            listener: A callable, or an object, class or module with `process(shadow)`; or (listener, config), which is
                called with (shadow, config).
            patterns: Regular expressions that match from the beginning of a topic's name (`re.match`).
            broadcast: This process gets every event instead of sharing them: its pid becomes part of the config.
            credit: How many unsettled events this process may hold for the listener. "auto": some milliseconds of work,
                which is one event for a listener that takes longer than 10 ms, even if it settles later. Give a number
                to hold more at once.

        Returns:
            The subscriber, whom `mark_as_completed` and its siblings take as well.

        Raises:
            InvalidPattern: A pattern does not compile; nothing was changed.
            UsageError: The listener cannot be called, or another argument is not valid.
        """
        spec = HandlerSpec.from_listener(listener, patterns, broadcast=broadcast, credit=credit)
        self._host(spec)
        return spec.subscriber

    def on(
        self,
        *patterns: str,
        retries: int = 0,
        name: str | None = None,
        broadcast: bool = False,
        credit: int | str = "auto",
    ) -> Callable[[Function], Function]:
        """Decorate a function that is called with each event whose topic a pattern matches.

        The function settles the event by how it ends. If it returns, the event is completed; if it raises `Skip`, the
        event is skipped; if it raises anything else, it is called again up to `retries` times, and then the error is
        logged and the event is skipped. The function itself is not changed. Decorating blocks for one round trip.

        Args:
            patterns: As in `subscribe`; at least one.
            retries: How often it is called again after an exception; 0: not at all.
            name: The subscriber's name; None: the function's module and qualified name.
            broadcast: As in `subscribe`.
            credit: As in `subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile.
            UsageError: There is no pattern, what is decorated cannot be called, or another argument is not valid.
        """
        return handler_decorator(self._host, patterns, retries=retries, name=name, broadcast=broadcast, credit=credit)

    def _host(self, spec: HandlerSpec) -> None:
        if not imports_program():
            spec.host(self._live())

    def inbox(
        self, name: str, patterns: Iterable[str], *, broadcast: bool = False, credit: int | str = "auto"
    ) -> Inbox:
        """Subscribe a mailbox called `name`, from which you take shadows when you want them: see `Inbox`.

        Blocks for one round trip. The arguments are those of `subscribe`.

        Raises:
            InvalidPattern: A pattern does not compile; nothing was changed.
            UsageError: The name is empty, or another argument is not valid.
        """
        key = SubscriberKey(check_name(name))
        key = broadcast_key(key) if broadcast else key
        wanted, shadows = check_patterns(patterns), check_credit(credit)
        session = self._live()
        return Inbox(session, session.host(key, wanted, shadows, broadcast), key)

    def subscribed(self, listener: Any, patterns: Iterable[str]) -> bool:
        """Whether any process has subscribed the listener with exactly these patterns. Blocks for one round trip.

        Raises:
            UsageError: The listener or the patterns are not valid.
        """
        key, wanted = listener_of(listener).key, check_patterns(patterns)
        return any(item.key == key and list(item.patterns) == wanted for item in self.subscribers())

    def unsubscribe(self, listener: Any) -> bool:
        """Unsubscribe the listener in every process; False if no process had subscribed it.

        Its queued deliveries are skipped. Blocks for two round trips, and does not wait for a call of the listener that
        is under way.

        Raises:
            UsageError: It is not a listener.
        """
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
        """All subscribers, or those that get this topic's events, oldest first. Blocks for one round trip."""
        return [
            Subscriber(row["name"], unpack_config(row["config"]), tuple(row["patterns"]), tuple(row["pids"]))
            for row in self._ask(requests.ListSubscribers, topic)
        ]

    # --- events ---

    def notify(self, event: Event) -> EventShadow:
        """Publish the event to every subscriber of its topic, and return without waiting for them.

        It encodes the event, copies it once into shared memory, and writes one record. When it has returned, the event
        will be delivered even if this process dies. If it raises, nothing was published. It blocks while the bus's
        memory is full (up to `notify_timeout_s`), or while the manager is behind.

        An event of a topic without a subscriber is dropped with a warning, at most once a minute for each topic;
        fetching its shadow gives None.

        Raises:
            UnknownTopic: The topic is not registered and `strict` is set. Without `strict` that is a warning as well.
            EncodeError: The data holds something that cannot travel; the text names the path to it.
            EventTooLarge: The event is larger than `event_bytes_max`, or than the bus's memory can ever hold.
            BusFull: No memory became free within `notify_timeout_s`; the text names the processes that hold it.
            UsageError: It is not an `Event`; or a signal's handler publishes in the middle of a call of its thread.
        """
        return (self._session or self._live()).publisher.notify(event)

    def notify_many(self, events: Iterable[Event]) -> list[EventShadow]:
        """Publish events in their order, with one write for many of them; the shadows, in the same order.

        Blocks and raises like `notify`. All events are encoded before the first one is published, so an event that
        cannot be encoded publishes none. After `BusFull`, the first events of the list may have been published.

        Args:
            events: A list or a tuple. From any other iterable, arrays and buffers are copied once more, because a
                generator may fill them again for its next event.
        """
        return self._live().publisher.notify_many(events)

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
        if "id" not in fields:
            fields["id"] = (self.config.id_generator or unique_id)()
        return make_loan(self, self._live().publisher, topic, nbytes, shape, dtype, fields)

    @staticmethod
    def register_type(
        cls: Any,  # noqa: PLW0211  (the class to register, as the function of the same name calls it)
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        *,
        name: str | None = None,
    ) -> Any:
        """Register a class whose values may travel: `eventbus_mp.register_type`, and not only for this bus.

        The registry belongs to the process: a type that is registered here can travel on every bus of this process, and
        each process that reads such values has to register the type as well. Never blocks.
        """
        return register_type(cls, encode, decode, name=name)

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
        session = self._live()
        place = session.place_of(shadow)
        return session.fetcher.fetch(place) if place is not None else None

    def fetch_event_data(self, shadow: EventShadow | tuple[str, str]) -> Any:
        """The data of `fetch_event`; None if that is None.

        Raises:
            DecodeError: The data holds a type that is not registered in this process.
            UsageError: It is neither a shadow nor a pair.
        """
        event = self.fetch_event(shadow)
        return event.data if event is not None else None

    def mark_as_completed(self, listener: Any, shadow: EventShadow | tuple[str, str]) -> None:
        """Settle the event for this listener as completed. If it is settled already, this changes nothing.

        Does not block if this process holds the delivery; blocks for one round trip otherwise. The short form for what
        was taken from an inbox is `Inbox.complete`.

        Args:
            listener: What was subscribed; or the subscriber that `subscribe` returned, or its name, or an inbox.
            shadow: A shadow, or a pair (topic, id) as for `fetch_event`.

        Raises:
            NotSubscribed: The event was not delivered to this listener.
            UsageError: It is not a listener, or neither a shadow nor a pair.
        """
        self._mark(listener, shadow, Outcome.COMPLETED)

    def mark_as_skipped(self, listener: Any, shadow: EventShadow | tuple[str, str]) -> None:
        """Settle the event for this listener as skipped; otherwise like `mark_as_completed`. See also `Inbox.skip`."""
        self._mark(listener, shadow, Outcome.SKIPPED)

    # --- watching ---

    def watcher(self, shadow: EventShadow | tuple[str, str]) -> Watcher | None:
        """Which subscribers the event was delivered to, and which have settled it; None if all have.

        Includes what this process has settled until now. Blocks for one round trip.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        session = self._live()
        session.reporter.flush_all()
        place = session.place_of(shadow)
        reported = self._ask(requests.WatchEvent, place.topic, place.sequence) if place is not None else None
        return watcher_of(reported) if reported is not None else None

    def watchers(self, topic: str) -> dict[str, Watcher]:
        """The watchers of the topic's unsettled events, by id. Blocks for one round trip.

        If two events share an id, the newest one's watcher is given.
        """
        session = self._live()
        session.reporter.flush_all()
        return {event_id: watcher_of(reported) for event_id, reported in session.fetcher.watched(topic)}

    def statistics(self) -> BusStatistics:
        """A snapshot of the whole bus. Blocks for one round trip."""
        return self._live().statistics()

    def story(self, shadow: EventShadow | tuple[str, str]) -> list[str]:
        """What the manager's log still holds of the event, oldest first, a line for each step.

        The log is bounded, so the story of an old event is empty, and so is that of a pair (topic, id) whose event is
        settled. Blocks for one round trip.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        place = self._live().place_of(shadow)
        return list(self._ask(requests.GetHistory, place.sequence)) if place is not None else []

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
        check_timeout(timeout_s)
        self._live().drain(pattern, timeout_s)

    # --- the end ---

    def close(self) -> None:
        """Leave the bus: listeners stop, and unsettled deliveries go to other processes. Repeated, it does nothing.

        Blocks until the listener that is running has returned. Afterwards every call of this handle raises `BusClosed`.
        A signal's handler may call it while its thread waits, for example for an inbox, and gets `UsageError` while its
        thread publishes or connects.
        """
        if self._session is not None:
            self._session.connection.transport.lock.refuse_reentry()
        with self._lock.held():
            session, self._session, self._closed = self._session, None, True
        if session is not None:
            sessions.close_session(session)

    def shutdown(self) -> None:
        """Stop the manager for all processes, drop all unsettled events, and close this handle.

        Blocks until the manager has ended and has removed its files and its shared memory.

        Raises:
            WaitTimeout: The manager did not end within `request_timeout_s`.
        """
        manager_pid = self.statistics().manager_pid  # Asked for: the one that this handle knows may have died.
        with manager_end(manager_pid) as has_ended:
            self._live().stop_listening()
            self._ask(requests.ShutDown)
            self.close()
            if not has_ended(self.config.request_timeout_s):
                raise WaitTimeout(f"the manager of bus {self.name!r}, process {manager_pid}, does not end")

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
                    # The config's topics are among them; a worker's session is shared, so its handle's own may be new.
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

    def _abandon(self) -> None:
        """In a forked child: start again on the next use. `sessions` calls it."""
        self._lock = NonReentrantLock()
        self._session = None
