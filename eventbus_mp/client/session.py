"""A session: everything a process has on one bus while it is connected. `EventBus` makes it on first use."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

from eventbus_mp.client.connect import open_connection
from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.handlers import EventHandler, Handler, HandlerLoop, ShadowHandler, current_loop
from eventbus_mp.client.listeners import Listener, broadcast_key, pack_config, unpack_config
from eventbus_mp.client.publisher import Publisher
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.client.validation import check_name
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, UsageError, WaitTimeout
from eventbus_mp.events import EventShadow, Place
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.memory.shm import SHARED_MEMORY
from eventbus_mp.memory.store import SegmentStore
from eventbus_mp.protocol.requests import Drain, GetStatistics, MarkEvent, RegisterTopics, StopHosting
from eventbus_mp.statistics import BusStatistics, SubscriberKey, SubscriberStatistics

__all__ = ["Session"]

log = logging.getLogger("eventbus_mp")


class Session:
    """Puts connection, publisher, fetcher and endpoints together.

    Args:
        connection: A new link, which is the session's from now on.
        store: Where the bus's segments are.
        threaded: Whether listeners run on a thread of their own; a worker runs `loop` itself.
    """

    def __init__(self, connection: Connection, store: SegmentStore, *, threaded: bool = True) -> None:
        self.connection = connection
        self._protocol = connection.protocol
        self._mappings = mappings = Mappings(connection.welcome.segment_prefix, store)
        self.leases = LeaseBook()
        self.reporter = Reporter(connection, self.leases)
        self.loop = HandlerLoop(connection, self.reporter)
        span_pool = SpanPool(
            connection,
            mappings,
            in_listener=lambda: current_loop() is not None,
            before_waiting=self.reporter.flush_all,
            describe_holders=self.describe_holders,
        )
        self.publisher = Publisher(connection, span_pool)
        self.fetcher = EventFetcher(connection, mappings, self.leases, self.reporter)
        self._threaded = threaded
        self._thread: threading.Thread | None = None
        self._lock = NonReentrantLock()
        connection.on_manager_changed = lambda: self._protocol.resync(self.publisher.places())

    @classmethod
    def open(cls, bus: str, config: BusConfig, *, threaded: bool = True) -> Session:
        """Connect to the bus; raises as `open_connection`."""
        return cls(open_connection(bus, config), SHARED_MEMORY, threaded=threaded)

    def register_topics(self, names: Iterable[str]) -> None:
        """Make the topics known to every process; returns when they are."""
        wanted = list(names)
        if wanted:
            self.connection.request(RegisterTopics, wanted)

    # --- hosting ---

    def host(self, key: SubscriberKey, patterns: list[str], credit: int, broadcast: bool) -> ClientEndpoint:
        """Serve this subscriber from this process; its patterns are replaced.

        Raises:
            UsageError: Its name is not a text, or empty.
            BusClosed: Another thread has unsubscribed it at this moment.
        """
        check_name(key.name)
        config_bytes = pack_config(key.config)
        request = self.connection.call(self._protocol.subscribe, key, config_bytes, patterns, credit, broadcast)
        number = self.connection.await_reply(request, "Subscribe")
        endpoint = self._protocol.endpoint(number)
        if endpoint is None:
            raise BusClosed(f"subscriber {key.name!r} was unsubscribed by another thread while it was subscribed")
        return endpoint

    def find(self, key: SubscriberKey) -> ClientEndpoint | None:
        """This process's endpoint of a subscriber, if it hosts it."""
        return self._protocol.find(key, pack_config(key.config))

    def drop(self, endpoint: ClientEndpoint) -> None:
        """Stop hosting it: what is in flight or pending goes back to the bus."""
        self.return_unstarted(endpoint)
        self.connection.request(StopHosting, endpoint.number)
        self.forget(endpoint)

    def return_unstarted(self, endpoint: ClientEndpoint) -> None:
        """Run its handler no more, and return what is not settled, with leases of what somebody still views."""
        self.loop.remove(endpoint.number)
        endpoint.return_unstarted()
        self.reporter.flush(endpoint)

    def forget(self, endpoint: ClientEndpoint) -> None:
        """It is hosted no more; a thread that waits for its deliveries hears that none will come."""
        self._protocol.forget(endpoint)
        self.connection.wake()

    def listen(self, handler: Handler) -> None:
        """Run this handler, on the listener thread or in the worker's loop."""
        self.loop.add(handler)
        if self._threaded:
            self.start_thread()

    def start_thread(self) -> None:
        """Have a thread read the pipe and run listeners, if there is none yet."""
        with self._lock.held():
            if self._thread is None:
                name = f"eventbus_mp-{self.connection.bus}"
                self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
                self._thread.start()

    def _run_loop(self) -> None:
        try:
            self.loop.run()
        except EventBusError as error:
            if not isinstance(error, BusClosed):
                log.error("listeners of bus %r stop: %s", self.connection.bus, error)
        for endpoint in self.endpoints():
            endpoint.announce()

    def shadow_handler(self, endpoint: ClientEndpoint, listener: Listener) -> Handler:
        """A handler that gives `listener` the shadow."""
        assert listener.call is not None
        return ShadowHandler(endpoint, self.fetcher, self.reporter, listener.call, listener.arguments)

    def event_handler(self, endpoint: ClientEndpoint, call: Any, retries: int) -> Handler:
        """A handler that gives `call` the event, and settles by how it ends."""
        return EventHandler(endpoint, self.fetcher, self.reporter, call, retries)

    def endpoints(self) -> tuple[ClientEndpoint, ...]:
        """All that this process hosts."""
        return self._protocol.endpoints

    # --- settling ---

    def place_of(self, shadow: EventShadow | tuple[str, str]) -> Place | None:
        """Where the event lies, or lay; a bare (topic, id) is looked for.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        if isinstance(shadow, EventShadow):
            return shadow._place
        try:
            topic, event_id = shadow
        except (TypeError, ValueError) as cause:
            raise UsageError(f"{shadow!r} is not a shadow; give one, or a (topic, id) pair") from cause
        return self.fetcher.find(topic, event_id)

    def settle(self, key: SubscriberKey, shadow: EventShadow | tuple[str, str], outcome: int) -> None:
        """Settle the event for this subscriber, or for the broadcasting one of its name, whichever process holds it.

        Raises:
            UsageError: It is neither a shadow nor a pair, or the subscriber did not get the event.
        """
        place = self.place_of(shadow)
        endpoint = self.find(key) or self.find(broadcast_key(key))
        if endpoint is not None and place is not None and endpoint.settle(place.sequence, outcome):
            if current_loop() is not self.loop:
                self.reporter.flush(endpoint)
            return
        self.mark(endpoint.key if endpoint is not None else key, place, outcome)

    def mark(self, key: SubscriberKey, place: Place | None, outcome: int) -> None:
        """Settle a delivery that is not in flight here; the manager says whether that can be."""
        topic, sequence = (place.topic, place.sequence) if place is not None else (0, 0)
        self.connection.request(MarkEvent, topic, sequence, key.name, pack_config(key.config), outcome)

    # --- questions ---

    def statistics(self) -> BusStatistics:
        """A snapshot of the bus; one round trip."""
        answer = self.connection.request(GetStatistics)
        subscribers = tuple(_subscriber_statistics(row) for row in answer.pop("subscribers"))
        for name in ("span_holders", "lease_holders"):
            answer[name] = dict(answer[name])
        return BusStatistics(subscribers=subscribers, manager_pid=self.connection.manager_pid, **answer)

    def describe_holders(self) -> str:
        """Who holds the memory, in one line: for errors."""
        now = self.statistics()
        waiting = [
            f"{item.name} has {item.sent} events in flight and {item.queued} queued"
            for item in sorted(now.subscribers, key=lambda item: -(item.sent + item.queued))[:3]
            if item.sent or item.queued
        ]
        writers = [f"process {pid} wrote {nbytes} bytes of it" for pid, nbytes in now.span_holders.items() if pid]
        return (
            f"{now.memory_bytes_used} of {now.memory_bytes_max} bytes are in use, "
            f"{now.memory_bytes_leased} of them kept by views, for {now.events_unsettled} unsettled events "
            f"({'; '.join([*waiting, *writers]) or 'nobody is named'})"
        )

    def drain(self, pattern: str, timeout_s: float | None) -> None:
        """Wait until no topic that the pattern matches has an unsettled event.

        Raises:
            WaitTimeout: `timeout_s` was over first.
        """
        self.reporter.flush_all()
        protocol = self._protocol
        number = self.connection.call(protocol.request, Drain, pattern)
        if not self.connection.wait(lambda: protocol.has_reply(number), timeout_s):
            self.connection.call(protocol.cancel_wait, number)
            raise WaitTimeout(
                f"bus {self.connection.bus!r} is not drained after {timeout_s:g} s: {self.describe_holders()}"
            )
        protocol.take_reply(number)

    # --- the end ---

    def stop_listening(self, patience_s: float | None = None) -> None:
        """End the listener thread after the listener it is in."""
        self.loop.stop()
        self.connection.wake(followers=True)
        thread = self._thread
        if thread is not None and current_loop() is not self.loop:
            thread.join(patience_s)

    def close(self, patience_s: float | None = None) -> None:
        """Say goodbye, and end the listener thread after the listener it is in; wait `patience_s` for that.

        What is in flight goes to other processes, without an attempt counted: the manager takes it back at the goodbye.
        """
        self.stop_listening(patience_s)
        try:
            for endpoint in self.endpoints():
                self.reporter.flush(endpoint)
        except (ManagerLost, BusClosed):
            log.debug("bus %r ended before this process left it", self.connection.bus)
        self.connection.close()
        # Views that the user holds keep their mappings; ours go now, and not when the collector comes by.
        self.publisher.close()
        self._mappings.clear()

    def abandon(self) -> None:
        """In a forked child: drop descriptors and memory without a word; the parent goes on with its own."""
        self.connection.abandon()
        self.publisher.close()
        self._mappings.clear()


def _subscriber_statistics(answer: dict[str, Any]) -> SubscriberStatistics:
    recent_skips = tuple((event_id, reason) for event_id, reason in answer["recent_skips"])
    config = unpack_config(answer["config"])
    return SubscriberStatistics(**{**answer, "config": config, "recent_skips": recent_skips})
