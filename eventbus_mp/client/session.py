"""A session: everything a process has on one bus while it is connected. `EventBus` makes it on first use."""

from __future__ import annotations

import logging
import threading
from typing import Any

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint, flat_ranges
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.handlers import EventHandler, Handler, HandlerLoop, ShadowHandler, current_loop
from eventbus_mp.client.listeners import Listener, broadcast_key, pack_config, unpack_config
from eventbus_mp.client.publisher import Publisher
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.config import BusConfig
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, UsageError, WaitTimeout
from eventbus_mp.events import EventShadow, Place
from eventbus_mp.locking import NonReentrantLock
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.protocol.client_events import Delivered
from eventbus_mp.protocol.records import RECORD
from eventbus_mp.protocol.requests import (
    Drain,
    GetStatistics,
    MarkEvent,
    RegisterTopic,
    ReportState,
    StopHosting,
    Subscribe,
)
from eventbus_mp.statistics import BusStatistics, SubscriberKey, SubscriberStatistics

__all__ = ["Session"]

log = logging.getLogger("eventbus_mp")


class Session:
    """Puts connection, publisher, reader and subscriptions together.

    Args:
        bus: The bus's name.
        config: This process's settings.
        threaded: Whether listeners run on a thread of their own; a worker runs `loop` itself.
    """

    def __init__(self, bus: str, config: BusConfig, *, threaded: bool = True) -> None:
        self.connection = Connection(bus, config)
        self._mappings = mappings = Mappings(self.connection.welcome.segment_prefix)
        self.leases = LeaseBook()
        self.loop = HandlerLoop(self.connection)
        span_pool = SpanPool(
            self.connection,
            mappings,
            in_listener=lambda: current_loop() is not None,
            before_waiting=self.flush,
            describe_holders=self.describe_holders,
        )
        self.publisher = Publisher(self.connection, span_pool)
        self.fetcher = EventFetcher(self.connection, mappings, self.leases, self.holds)
        self._hosted: dict[int, ClientEndpoint] = {}
        self._by_key: dict[tuple[str, bytes], ClientEndpoint] = {}
        self._early: dict[int, list[Delivered]] = {}
        self._threaded = threaded
        self._thread: threading.Thread | None = None
        self._lock = NonReentrantLock()
        self.connection.on_delivered = self._on_delivered
        self.connection.on_manager_replaced = self._on_manager_replaced
        try:
            for topic in config.topics:
                self.connection.request(RegisterTopic, topic)
        except BaseException:
            self.close()
            raise

    # --- hosting ---

    def host(self, key: SubscriberKey, patterns: list[str], credit: int, broadcast: bool) -> ClientEndpoint:
        """Serve this subscriber from this process; its patterns are replaced.

        Raises:
            UsageError: Its name is not a text, or empty.
        """
        if not isinstance(key.name, str) or not key.name:
            raise UsageError(f"a subscriber's name is a text of one character or more, not {key.name!r}")
        config_bytes = pack_config(key.config)
        number = self.connection.request(Subscribe, key.name, config_bytes, patterns, credit, broadcast)
        with self._lock:
            endpoint = self._hosted.get(number)
            if endpoint is None:
                endpoint = ClientEndpoint(self.connection, self.leases, number, key, config_bytes)
                for message in self._early.pop(number, ()):
                    endpoint.arrive(message)
                self._hosted[number] = endpoint
                self._by_key[key.name, config_bytes] = endpoint
            return endpoint

    def find(self, key: SubscriberKey) -> ClientEndpoint | None:
        """This process's endpoint of a subscriber, if it hosts it."""
        return self._by_key.get((key.name, pack_config(key.config)))

    def drop(self, endpoint: ClientEndpoint) -> None:
        """Host it no more: what is in hand or pending goes back to the bus."""
        self.loop.remove(endpoint.number)
        endpoint.return_unstarted()  # And lease, in the same write, what somebody still has a view of.
        self.connection.request(StopHosting, endpoint.number)
        self.forget(endpoint)

    def forget(self, endpoint: ClientEndpoint) -> None:
        """It is hosted no more; whoever waits for its deliveries gets none."""
        with self._lock:
            self._hosted.pop(endpoint.number, None)
            self._by_key.pop((endpoint.key.name, endpoint.config_bytes), None)
        endpoint.is_over = True
        endpoint.announce()
        self.connection.wake()

    def listen(self, handler: Handler) -> None:
        """Run this handler, on the listener thread or in the worker's loop."""
        self.loop.add(handler)
        if self._threaded:
            self.start_thread()

    def start_thread(self) -> None:
        """Have a thread read the pipe and run listeners, if there is none yet."""
        with self._lock:
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

    def _on_delivered(self, message: Delivered) -> None:
        endpoint = self._hosted.get(message.subscriber)
        if endpoint is None:
            # The first events can overtake the thread that is subscribing.
            with self._lock:
                endpoint = self._hosted.get(message.subscriber)
                if endpoint is None:
                    self._early.setdefault(message.subscriber, []).append(message)
                    return
        endpoint.arrive(message)

    def _on_manager_replaced(self) -> None:
        """Tell the new manager what has arrived from the one that died; it sends the rest again."""
        with self._lock:
            held = [[number, endpoint.outstanding()] for number, endpoint in self._hosted.items()]
            for number, messages in self._early.items():
                packed = b"".join([message.packed for message in messages])
                held.append([number, flat_ranges([record[7] for record in RECORD.iter_unpack(packed)])])
        self.connection.send_oneway(ReportState, self.connection.manager_pid, held, self.publisher.resync())

    def holds(self, sequence: int) -> bool:
        """Whether a delivery of this event is in hand here."""
        # A tuple, made in one step: other threads subscribe meanwhile.
        return any(sequence in endpoint.in_flight for endpoint in tuple(self._hosted.values()))

    def shadow_handler(self, endpoint: ClientEndpoint, listener: Listener) -> Handler:
        assert listener.call is not None
        return ShadowHandler(endpoint, self.fetcher, listener.call, listener.arguments)

    def event_handler(self, endpoint: ClientEndpoint, call: Any, retries: int) -> Handler:
        return EventHandler(endpoint, self.fetcher, call, retries)

    def flush(self) -> None:
        """Tell what is settled in this process, by whatever thread, and which views have ended."""
        for endpoint in tuple(self._hosted.values()):
            endpoint.flush()
        self.fetcher.release_ended()

    def endpoints(self) -> tuple[ClientEndpoint, ...]:
        return tuple(self._hosted.values())

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
        """Settle the event for this subscriber, or for the broadcasting one of its name, whoever holds it.

        Raises:
            UsageError: It is neither a shadow nor a pair, or the subscriber was not told of the event.
        """
        place = self.place_of(shadow)
        endpoint = self.find(key) or self.find(broadcast_key(key))
        if endpoint is not None and place is not None and endpoint.settle(place.sequence, outcome):
            if current_loop() is not self.loop:
                endpoint.flush()
            return
        self.mark(endpoint.key if endpoint is not None else key, place, outcome)

    def mark(self, key: SubscriberKey, place: Place | None, outcome: int) -> None:
        """Settle a delivery that is not in hand here; the manager says whether that can be."""
        topic, sequence = (place.topic, place.sequence) if place is not None else (0, 0)
        self.connection.request(MarkEvent, topic, sequence, key.name, pack_config(key.config), outcome)

    # --- questions ---

    def statistics(self) -> BusStatistics:
        reported = self.connection.request(GetStatistics)
        subscribers = tuple(_subscriber_statistics(row) for row in reported.pop("subscribers"))
        for name in ("span_holders", "lease_holders"):
            reported[name] = dict(reported[name])
        return BusStatistics(subscribers=subscribers, manager_pid=self.connection.manager_pid, **reported)

    def describe_holders(self) -> str:
        """Who holds the memory, in one line: for errors."""
        now = self.statistics()
        waiting = [
            f"{item.name} has {item.sent} events in hand and {item.queued} queued"
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
        self.flush()
        number = self.connection.start_request(Drain, pattern)
        if not self.connection.wait(lambda: self.connection.has_reply(number), timeout_s):
            self.connection.cancel_wait(number)
            raise WaitTimeout(
                f"bus {self.connection.bus!r} is not drained after {timeout_s:g} s: {self.describe_holders()}"
            )
        self.connection.take_reply(number)

    # --- the end ---

    def stop_listening(self, patience_s: float | None = None) -> None:
        """End the listener thread after the listener it is in."""
        self.loop.stop()
        self.connection.wake_all()
        thread = self._thread
        if thread is not None and current_loop() is not self.loop:
            thread.join(patience_s)

    def close(self, patience_s: float | None = None) -> None:
        """Say goodbye, and end the listener thread after the listener it is in; wait `patience_s` for that.

        What is in hand goes to others, without an attempt counted: the manager takes it back at the goodbye.
        """
        self.stop_listening(patience_s)
        try:
            for endpoint in tuple(self._hosted.values()):
                endpoint.flush()
        except (ManagerLost, BusClosed):
            log.debug("bus %r ended before this process left it", self.connection.bus)
        self.connection.close()
        # Views that the user holds keep their mappings; ours go now, and not when the collector comes by.
        self.publisher.close()
        self._mappings.clear()

    def abandon(self) -> None:
        """In a forked child: drop descriptors and memory without a word; the parent goes on with its own."""
        self.connection.abandon()
        self.publisher.abandon()
        self._mappings.clear()


def _subscriber_statistics(reported: dict[str, Any]) -> SubscriberStatistics:
    recent_skips = tuple((event_id, reason) for event_id, reason in reported["recent_skips"])
    config = unpack_config(reported["config"])
    return SubscriberStatistics(**{**reported, "config": config, "recent_skips": recent_skips})
