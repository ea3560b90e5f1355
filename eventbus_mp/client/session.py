"""A session: everything a process has on one bus while it is connected. `EventBus` makes it on first use."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from eventbus_mp.client.batch_handler import BatchCall, BatchHandler
from eventbus_mp.client.connection import Connection, only_looks
from eventbus_mp.client.counts import bus_statistics, describing_holders
from eventbus_mp.client.crews import Crews, Threads
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.garbage import watch_garbage
from eventbus_mp.client.handler_loop import HandlerLoop, current_loop, running_endpoint
from eventbus_mp.client.handlers import EventHandler, Handler, ShadowHandler
from eventbus_mp.client.listeners import Listener, broadcast_key, listener_of, pack_config, wire_key
from eventbus_mp.client.publisher import Publisher
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.client.retries import Retries
from eventbus_mp.client.span_pool import SpanPool
from eventbus_mp.client.steps import Steps, ask, happening, reply
from eventbus_mp.client.subscription import Subscription
from eventbus_mp.client.validation import check_name, pair_of
from eventbus_mp.errors import BusClosed, EventBusError, ManagerLost, NotSubscribed, WaitTimeout
from eventbus_mp.events import Event, EventShadow, Place
from eventbus_mp.ids import EventId
from eventbus_mp.memory.leases import LeaseBook
from eventbus_mp.memory.mappings import Mappings
from eventbus_mp.memory.page_copies import Shown
from eventbus_mp.memory.store import SegmentStore
from eventbus_mp.protocol.client_events import Recalled
from eventbus_mp.protocol.requests import Drain, GetSnapshot, MarkEvents, Observe, RegisterTopics, StopHosting
from eventbus_mp.runtime.stacks import StackAnswers
from eventbus_mp.statistics import BusStatistics, SubscriberKey

__all__ = ["Session"]

log = logging.getLogger("eventbus_mp")

LISTENERS_KNOWN_MAX = 64
"""How many listeners are remembered with their endpoint; beyond that, all are forgotten and looked up again."""
MARKED_MAX = 10_000
"""How many events are marked by one request."""


class Session:
    """Puts connection, publisher, fetcher and endpoints together.

    Args:
        connection: A new link, which is the session's from now on.
        store: Where the bus's segments are.
        threads: Which handlers have threads; the main thread of a worker runs `loop`, for those that have none.
    """

    running_endpoint = staticmethod(running_endpoint)
    """The endpoint whose handler makes a call."""

    def __init__(self, connection: Connection, store: SegmentStore, *, threads: Threads = Threads.ALL) -> None:
        self.connection = connection
        self._protocol = connection.protocol
        self._mappings = mappings = Mappings(connection.welcome.segment_prefix, store)
        self.leases = LeaseBook()
        self.reporter = Reporter(connection, self.leases)
        self.crews = Crews(lambda: HandlerLoop(connection, self.reporter), self._run_loop, connection.bus, threads)
        (self.loop,) = self.crews.shared.loops
        """Runs every handler that has no other thread."""
        self._ended_first: dict[str, HandlerLoop] = {}
        """Its one value is set once: the loop that was the first to end with the session."""
        span_pool = SpanPool(
            connection,
            mappings,
            running=self.running_endpoint,
            before_waiting=self.reporter.flush_all,
            describe_holders=partial(describing_holders, connection),
        )
        self.publisher = self._make_publisher(connection, span_pool)
        self.fetcher = EventFetcher(connection, mappings, self.leases, self.reporter)
        self._endpoint_of: dict[int, tuple[Any, ClientEndpoint]] = {}
        """id(listener) -> the listener, which thereby keeps its id, and its endpoint."""
        self._stacks: StackAnswers | None = None
        self.identity = os.urandom(8).hex()
        """Distinguishes subscribers that broadcast, as pids do not in two containers. The same on the next
        session of a handle whose bus was lost."""
        self.is_lost = False
        """The manager is gone; the handle may have another session."""
        self.after_loss: Callable[[Session], None] = _ignore
        """Called by a thread that ran listeners, the first that has ended with the loss of the bus."""
        self.finalizer: weakref.finalize[..., Any] | None = None
        """Called when the handle is gone."""
        self.keeps: object = None
        """What must live as long as listeners do."""
        watch_garbage(connection.transport, self.leases, self.reporter)
        connection.on_recalled = self._report_recalled
        connection.on_manager_changed = lambda: self._protocol.resync(self.publisher.places())
        connection.on_lost = self._note_lost

    def succeed(self, lost: Session) -> None:
        """Be the next session of the handle that has lost this one."""
        self.identity = lost.identity
        self.crews.succeed(lost.crews)

    def _note_lost(self) -> None:
        self.is_lost = True

    # `InstrumentedSession` has other ones of these two.

    def _make_publisher(self, connection: Connection, span_pool: SpanPool) -> Publisher:
        return Publisher(connection, span_pool)

    def _bracketed(self, endpoint: ClientEndpoint, call: Callable[..., Any]) -> Callable[..., Any]:
        """What a handler calls in order to call the user's function."""
        return call

    def answer_for_stacks(self) -> None:
        """Have this process show its stacks to those who ask (`BusConfig.show_stacks`)."""
        self._stacks = StackAnswers()

    def register_topics(self, names: Iterable[str]) -> None:
        """Make the topics known to every process; returns when they are."""
        self.connection.run(self.registering(names))

    def registering(self, names: Iterable[str]) -> Steps[None]:
        """The steps of `register_topics`."""
        wanted = list(names)
        if wanted:
            yield ask(RegisterTopics, wanted)

    def observe(self) -> None:
        """Only look from now on: the bus does not live on for this process, which neither publishes nor subscribes."""
        self.publisher.numbers.is_refused = True
        self.connection.send_oneway(Observe)

    def require(self, names: Iterable[str]) -> None:
        """Publish to a topic only while subscribers of all these names get its events."""
        self.publisher.require(names)
        self.start_thread()  # It hears at once when one of them goes, even if this process waits for nothing.

    # --- hosting ---

    def host(self, key: SubscriberKey, how: Subscription) -> ClientEndpoint:
        """Serve this subscriber from this process; its patterns and its scope are replaced. Raises as `hosting`."""
        return self.connection.run(self.hosting(key, how))

    def hosting(self, key: SubscriberKey, how: Subscription) -> Steps[ClientEndpoint]:
        """The steps of `host`.

        Raises:
            UsageError: Its name is not a text, or empty; or this process only looks.
            BusClosed: Another thread has unsubscribed it at this moment.
        """
        if self.publisher.numbers.is_refused:
            raise only_looks(self.connection.bus)
        check_name(key.name)
        request = self.connection.call(self._protocol.subscribe, key, pack_config(key.config), how)
        endpoint = self._protocol.endpoint((yield reply(request, "Subscribe")))
        if endpoint is None:
            raise BusClosed(f"subscriber {key.name!r} was unsubscribed by another thread while it was subscribed")
        return endpoint

    def find(self, key: SubscriberKey) -> ClientEndpoint | None:
        """This process's endpoint of a subscriber, if it hosts it."""
        return self._protocol.find(key, pack_config(key.config))

    def drop(self, endpoint: ClientEndpoint, *, ends: bool = False) -> None:
        """Stop hosting it: what is in flight or pending goes back to the bus. With `ends`, the subscription ends if no
        other process hosts it."""
        self.connection.run(self.dropping(endpoint, ends))

    def dropping(self, endpoint: ClientEndpoint, ends: bool) -> Steps[None]:
        """The steps of `drop`."""
        self.return_unstarted(endpoint)
        try:
            yield ask(StopHosting, endpoint.number, ends)
        finally:
            self.forget(endpoint)

    def return_unstarted(self, endpoint: ClientEndpoint) -> None:
        """Run its handler no more, and return what is not settled, with leases of what somebody still views."""
        self.crews.remove(endpoint.number)
        endpoint.return_unstarted()
        self.reporter.flush(endpoint)

    def forget(self, endpoint: ClientEndpoint) -> None:
        """It is hosted no more; a thread that waits for its deliveries hears that none will come."""
        self._protocol.forget(endpoint)
        self.connection.wake()

    def start_thread(self) -> None:
        """Have a thread read the pipe and run listeners, if there is none yet; a worker's main thread does it there.

        Raises:
            EventBusError: The system has no thread for it; it can be tried again.
        """
        self.crews.start(self.crews.shared)

    def _run_loop(self, loop: HandlerLoop) -> None:
        """Run it, in its thread. The first that ends with the session says so."""
        error: EventBusError | None = None
        try:
            loop.run()
        except EventBusError as reason:
            error = reason
        is_over = self.crews.is_stopping or self.connection.lost  # Otherwise its subscriber has been unsubscribed.
        if not is_over or self._ended_first.setdefault("loop", loop) is not loop:
            return
        if error is not None and not isinstance(error, BusClosed):
            log.error("listeners of bus %r stop: %s", self.connection.bus, error)
        for endpoint in self.endpoints():
            endpoint.is_cut_off = True
            endpoint.announce()
        self.connection.announce_end()
        if self.is_lost:
            self.after_loss(self)

    def shadow_handler(self, endpoint: ClientEndpoint, listener: Listener) -> Handler:
        """A handler that gives `listener` the shadow."""
        assert listener.call is not None
        call = self._bracketed(endpoint, listener.call)
        return ShadowHandler(endpoint, self.fetcher, self.reporter, call, listener.arguments)

    def event_handler(self, endpoint: ClientEndpoint, call: Any, retries: Retries) -> Handler:
        """A handler that gives `call` the event, and settles by how it ends."""
        return EventHandler(endpoint, self.fetcher, self.reporter, self._bracketed(endpoint, call), retries)

    def batch_handler(
        self, endpoint: ClientEndpoint, call: Any, retries: Retries, batch: int, within_s: float
    ) -> Handler:
        """A handler that gives `call` a list of up to `batch` events, and settles them by how it ends."""
        return BatchHandler(
            endpoint,
            self.fetcher,
            self.reporter,
            self._bracketed(endpoint, BatchCall(call)),
            retries=retries,
            size=batch,
            within_ns=int(within_s * 1e9),
            now_ns=self.connection.transport.monotonic_ns,
        )

    def endpoints(self) -> tuple[ClientEndpoint, ...]:
        """All that this process hosts."""
        return self._protocol.endpoints

    @property
    def running_handlers(self) -> list[str]:
        """The subscribers whose handlers run at this moment, once for each call."""
        tasks = [endpoint.key.name for endpoint in self.endpoints() for _ in tuple(endpoint.running)]
        return self.crews.running + tasks

    def _report_recalled(self, event: Recalled) -> None:
        """Report what the protocol has returned, in the thread that reads the pipe."""
        endpoint = self._protocol.endpoint(event.subscriber)
        if endpoint is not None:
            self.reporter.report_recalled(endpoint)

    # --- fetching and settling ---

    def fetch(self, shadow: EventShadow | tuple[str, EventId]) -> Event | None:
        """The event of a shadow, or of a bare (topic, id); None when it is settled.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        # Not by `place_of`, for a shadow: the call is 5 % of fetching what this process holds.
        at = shadow._at if type(shadow) is EventShadow else self.place_of(shadow)
        return self.fetcher.fetch(at) if at is not None else None

    def place_of(self, shadow: EventShadow | tuple[str, EventId]) -> Place | None:
        """Where the event lies, or lay; a bare (topic, id) is looked for.

        Raises:
            UsageError: It is neither a shadow nor a pair.
        """
        return shadow._place if isinstance(shadow, EventShadow) else self.connection.run(self.placing(shadow))

    def placing(self, shadow: EventShadow | tuple[str, EventId]) -> Steps[Place | None]:
        """The steps of `place_of`."""
        if isinstance(shadow, EventShadow):
            return shadow._place
        return (yield from self.fetcher.finding(*pair_of(shadow)))

    def endpoint_of(self, listener: Any) -> tuple[ClientEndpoint | None, SubscriberKey]:
        """The endpoint that this process has for a listener, or for the broadcasting subscriber of its name; and the
        subscriber. A listener object that was looked up before is found without taking it apart.

        Raises:
            UsageError: It is not a listener.
        """
        known = self._endpoint_of.get(id(listener))
        if known is not None and known[0] is listener and not known[1].is_over:
            return known[1], known[1].key
        key = listener_of(listener).key
        endpoint = self.find(key) or self.find(broadcast_key(key, self.identity))
        if endpoint is None:
            return None, key
        if len(self._endpoint_of) >= LISTENERS_KNOWN_MAX:
            self._endpoint_of.clear()
        self._endpoint_of[id(listener)] = listener, endpoint
        return endpoint, endpoint.key

    def settle(
        self, listener: Any, shadows: Iterable[EventShadow | tuple[str, EventId]], outcome: int, reason: str = ""
    ) -> None:
        """Settle events for a subscriber, whichever process holds them: what is in flight here without asking, and the
        rest in one request.

        Raises:
            UsageError: One is neither a shadow nor a pair, or the subscriber did not get the event.
        """
        left = self._settle_here(listener, shadows, outcome, reason)
        if left is not None:
            self.connection.run(self._marking(*left, outcome, reason))

    def settling(
        self, listener: Any, shadows: Iterable[EventShadow | tuple[str, EventId]], outcome: int, reason: str = ""
    ) -> Steps[None]:
        """The steps of `settle`."""
        found = []
        for shadow in shadows:
            place = yield from self.placing(shadow)
            found.append(shadow if isinstance(shadow, EventShadow) else EventShadow(*shadow, place))
        left = self._settle_here(listener, found, outcome, reason)
        if left is not None:
            yield from self._marking(*left, outcome, reason)

    def _settle_here(
        self, listener: Any, shadows: Iterable[EventShadow | tuple[str, EventId]], outcome: int, reason: str
    ) -> tuple[ClientEndpoint | None, SubscriberKey, list[int]] | None:
        """Settle what is in flight here. What is left: the endpoint that there is, the subscriber, and the events as
        [topic, sequence, topic, sequence, ...]; None: nothing."""
        endpoint, key = self.endpoint_of(listener)
        is_ours = False
        elsewhere: list[int] = []
        for shadow in shadows:
            at = shadow._at if type(shadow) is EventShadow else self.place_of(shadow)
            if at is None:
                elsewhere += (0, 0)  # It was never stored, or is settled; the manager says whether that is a mistake.
            elif endpoint is not None and endpoint.settle(at[4], outcome, reason):
                is_ours = True
            else:
                elsewhere += (at[0], at[4])
        if is_ours and endpoint is not None and ((loop := current_loop()) is None or not loop.runs(endpoint)):
            self.reporter.flush_soon(endpoint)
        return (endpoint, key, elsewhere) if elsewhere else None

    def _marking(
        self, endpoint: ClientEndpoint | None, key: SubscriberKey, events: list[int], outcome: int, reason: str
    ) -> Steps[None]:
        """Have the manager settle events, [topic, sequence, topic, sequence, ...], and then say which it could not."""
        if endpoint is not None:
            endpoint.mark_pending(events[1::2], outcome, reason)
            self.reporter.flush(endpoint)  # What was settled here before stays as it was, if it is among these.
        mistake: NotSubscribed | None = None
        for start in range(0, len(events), 2 * MARKED_MAX):
            part = events[start : start + 2 * MARKED_MAX]
            try:
                yield ask(MarkEvents, *wire_key(key), outcome, reason, part)
            except NotSubscribed as error:
                mistake = mistake or error
        if mistake is not None:
            raise mistake

    # --- questions ---

    def statistics(self) -> Steps[BusStatistics]:
        """The counts of the bus; one round trip."""
        return bus_statistics((yield from self.numbers(topics_max=0)), self.connection.manager_pid)

    def numbers(self, topics_max: int) -> Steps[dict[str, Any]]:
        """The manager's answer to `GetSnapshot`, with what this process has dropped until now; one round trip."""
        self.publisher.report_dropped()
        answer: dict[str, Any] = yield ask(GetSnapshot, topics_max)
        return answer

    def drain(self, pattern: str, timeout_s: float | None) -> Steps[None]:
        """Wait until no topic that the pattern matches has an unsettled event.

        Raises:
            WaitTimeout: `timeout_s` was over first.
        """
        self.reporter.flush_all()
        protocol = self._protocol
        number = self.connection.call(protocol.request, Drain, pattern)
        if not (yield happening(number, timeout_s)):
            holders = yield from describing_holders(self.connection)
            raise WaitTimeout(f"bus {self.connection.bus!r} is not drained after {timeout_s:g} s: {holders}")
        protocol.take_reply(number)

    # --- the end ---

    def stop_listening(self, patience_s: float | None = None) -> bool:
        """End the threads of listeners after the listeners they are in, but for the calling one; wait `patience_s` for
        that. Whether they have ended."""
        self.crews.stop()
        self.connection.wake(followers=True)
        return self.crews.join(patience_s)

    def refuse_reentry(self) -> None:
        """Raise `UsageError` where `close` would, in the middle of this thread's own writing or reading."""
        self.connection.transport.lock.refuse_reentry()
        self.leases.refuse_reentry()

    def close(self, patience_s: float | None = None) -> list[str]:
        """Say goodbye, and end the threads of listeners after the listeners they are in; wait `patience_s` for that.

        What is in flight goes to other processes, without an attempt counted: the manager takes it back at the goodbye.

        Returns:
            The subscribers whose handlers still run.
        """
        still_running = [] if self.stop_listening(patience_s) else self.running_handlers
        try:
            for endpoint in self.endpoints():
                self.reporter.flush(endpoint)
            self.publisher.report_dropped()
        except (ManagerLost, BusClosed):
            log.debug("bus %r ended before this process left it", self.connection.bus)
        self._release()
        return still_running

    def let_go(self) -> None:
        """The bus was lost, and the handle has another session: release what is left, and wait for no handler."""
        self.crews.stop()
        self._release()

    def _release(self) -> None:
        if self.finalizer is not None:
            self.finalizer.detach()
        self.reporter.close()
        self.connection.close(self._let_go_of_memory)
        # Views that the user holds keep their mappings; ours go now, and not when the collector comes by.
        self._mappings.close()
        if self._stacks is not None:
            self._stacks.close()

    def _let_go_of_memory(self) -> None:
        """With the write lock held, before the goodbye, after which others write there: no thread of this process
        writes to shared memory any more, nor reads what it has in flight there, and views become its own.

        Raises:
            EventBusError: There is no memory for that.
        """
        loaned = self.publisher.close()
        for endpoint in self.endpoints():
            endpoint.in_flight.clear()
        self.leases.close(loaned)

    def abandon(self, kept: Iterable[Shown]) -> None:
        """In a forked child: drop descriptors and memory without a word; the parent goes on with its own.

        Views become the child's own, the last of all. Those that were `kept` are that already.

        Raises:
            OSError: There is no memory for that.
        """
        self.connection.abandon()
        self.reporter.abandon()
        self.publisher.close()
        self._mappings.close()
        if self._stacks is not None:
            self._stacks.abandon()
        self.leases.abandon(kept)


def _ignore(session: Session) -> None:
    """Nobody comes back."""
