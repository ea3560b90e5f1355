"""Running listeners: the loop of a process's listener thread, and of a worker's main thread.

A listener is what the user subscribed. A `Handler` turns it into a function from a record to an outcome. The loop takes
deliveries one by one, runs the handler, and reports outcomes in batches: when no delivery is left, or two milliseconds
after the last report (up to four, if the handler is slow).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.errors import BusClosed, ManagerLost, Skip
from eventbus_mp.events import Event
from eventbus_mp.protocol.messages import Outcome, Record

__all__ = ["EventHandler", "Handler", "HandlerLoop", "ShadowHandler", "current_loop"]

log = logging.getLogger("eventbus_mp")

FLUSH_INTERVAL_NS, FLUSH_INTERVAL_SLOW_NS = 2_000_000, 4_000_000
"""A report of outcomes wakes the manager. For tasks of 1 ms on two cores, reporting each outcome alone cost 5 % of the
throughput, and reporting two together still cost 1.5 %. So slow handlers report FLUSHED_SLOW together, if these take no
longer than the second interval."""
FLUSHED_SLOW = 4
CROWD = 64
"""With more pending deliveries than this the handler is a fast one, and the clock is read after every eighth only."""
COMPLETED = int(Outcome.COMPLETED)

_local = threading.local()


def current_loop() -> HandlerLoop | None:
    """The loop whose listener the calling thread is running; None if it runs none."""
    return getattr(_local, "loop", None)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as cause:  # `__str__` is the user's code as well.
        return f"(its text cannot be had: {type(cause).__name__})"


class Handler:
    """One endpoint of this process and the user's code that handles its deliveries."""

    def __init__(
        self, endpoint: ClientEndpoint, fetcher: EventFetcher, reporter: Reporter, call: Callable[..., Any]
    ) -> None:
        self.endpoint = endpoint
        self.fetcher = fetcher
        self.reporter = reporter
        self.call = call
        """The user's code."""

    def run(self, record: Record) -> int:
        """Handle one delivery, and return its outcome; 0: the listener settles it itself.

        Exceptions of the user's code become outcomes and are not raised.

        Raises:
            BusClosed, ManagerLost: The connection ended while the user's code used it.
        """
        raise NotImplementedError

    def expire(self, record: Record) -> int:
        """Skip a delivery whose deadline passed on the way here."""
        return self._skip(record, "expired", Outcome.SKIPPED)

    def _skip(self, record: Record, reason: str, outcome: int) -> int:
        shadow = self.fetcher.delivered_shadow(record)
        self.reporter.explain(self.endpoint, shadow.id if shadow else "?", reason)
        return outcome

    def _fail(self, record: Record, what: str, error: BaseException) -> int:
        shadow = self.fetcher.delivered_shadow(record)
        log.error("%s %s %r: skipped", self.endpoint.key.name, what, shadow, exc_info=error)
        return self._skip(record, f"{type(error).__name__}: {_text_of(error)}", Outcome.FAILED)


class ShadowHandler(Handler):
    """For `EventBus.subscribe`: the listener gets the shadow and settles the event itself, in the call or later."""

    def __init__(
        self,
        endpoint: ClientEndpoint,
        fetcher: EventFetcher,
        reporter: Reporter,
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        super().__init__(endpoint, fetcher, reporter, call)
        self._arguments = arguments

    def run(self, record: Record) -> int:
        shadow = self.fetcher.delivered_shadow(record)
        if shadow is None:
            return self._skip(record, "its payload is not where the shadow says", Outcome.FAILED)
        in_flight = self.endpoint.in_flight
        in_flight[record[7]] = record
        try:
            self.call(shadow, *self._arguments)
        except Skip as skip:
            if in_flight.pop(record[7], None) is not None:
                return self._skip(record, _text_of(skip), Outcome.SKIPPED)
        except BaseException as error:
            if in_flight.pop(record[7], None) is not None:
                return self._fail(record, "raised on", error)
            log.error("%s raised on %r, which it had settled", self.endpoint.key.name, shadow, exc_info=error)
        if self.endpoint.is_over and in_flight.pop(record[7], None) is not None:
            return Outcome.RETURNED  # It was unsubscribed just as the listener was called.
        return 0


class EventHandler(Handler):
    """For `EventBus.on`: the function gets the event, and how it ends settles the event.

    Returning completes it, raising `Skip` skips it, and any other exception has it called again, up to `retries` times.
    """

    def __init__(
        self,
        endpoint: ClientEndpoint,
        fetcher: EventFetcher,
        reporter: Reporter,
        call: Callable[[Event], Any],
        retries: int,
    ) -> None:
        super().__init__(endpoint, fetcher, reporter, call)
        self._take = fetcher.delivered_event
        self._retries = retries

    def run(self, record: Record) -> int:
        attempts = 0
        while True:
            try:
                event = self._take(record)
                if event is None:
                    return self._skip(record, "its payload is not where the shadow says", Outcome.FAILED)
                self.call(event)
                return COMPLETED
            except BaseException as error:
                # BaseException: `sys.exit()` in a listener is the listener's failure. It does not end the thread.
                attempts += 1
                outcome = self._judge(record, error, attempts)
                if outcome:
                    return outcome

    def _judge(self, record: Record, error: BaseException, attempts: int) -> int:
        """The outcome after an attempt that raised; 0: try again."""
        if isinstance(error, Skip):
            return self._skip(record, _text_of(error), Outcome.SKIPPED)
        if isinstance(error, (BusClosed, ManagerLost)) and self.reporter.lost:
            raise error  # The outcome cannot be reported to anybody.
        return self._fail(record, f"raised {attempts} times on", error) if attempts > self._retries else 0


class HandlerLoop:
    """Runs handlers until it is stopped. One thread runs it; any thread may add handlers or stop it."""

    def __init__(self, connection: Connection, reporter: Reporter) -> None:
        self._connection = connection
        self._reporter = reporter
        self._now_ns = connection.transport.monotonic_ns
        self._handlers: dict[int, Handler] = {}
        self._stopping = False
        self._flushed_ns = 0
        self.events_handled = 0
        """Counted only if `run` was given `after_each`."""

    def add(self, handler: Handler) -> None:
        """Run this handler from now on. It replaces the one that its subscriber had."""
        before = self._handlers.get(handler.endpoint.number)
        if before is not None and before.call != handler.call:
            log.warning(
                "subscriber %r is subscribed again, with another function: from now on that one gets the events, and "
                "the new patterns hold; to have both, give them names (on(..., name=...))",
                handler.endpoint.key.name,
            )
        self._handlers = {**self._handlers, handler.endpoint.number: handler}
        self._connection.wake()

    def remove(self, number: int) -> None:
        """Stop running this subscriber's handler. The caller returns the deliveries that have arrived for it."""
        self._handlers = {key: handler for key, handler in self._handlers.items() if key != number}

    def stop(self) -> None:
        """Return from `run` after the delivery that is being handled; safe in a signal handler."""
        self._stopping = True
        self._connection.wake()

    def run(self, after_each: Callable[[], None] | None = None) -> None:
        """Run until `stop`, or until the connection ends. Blocks while there is nothing to do.

        Args:
            after_each: Called after every delivery.

        Raises:
            ManagerLost, BusClosed: The connection ended.
        """
        _local.loop = self
        while not self._stopping:
            self._connection.wait(self._has_work)
            self._run_all(after_each)
        self.flush()

    @property
    def has_work(self) -> bool:
        """Whether a handler's endpoint has something pending."""
        return any(handler.endpoint.pending for handler in self._handlers.values())

    def run_pending(self) -> None:
        """Run what is pending now, and return: for a loop of the caller's own."""
        before, _local.loop = current_loop(), self
        try:
            self._run_all(None)
        finally:
            _local.loop = before

    def _run_all(self, after_each: Callable[[], None] | None) -> None:
        for handler in tuple(self._handlers.values()):
            if handler.endpoint.pending:
                self._run_pending(handler, after_each)

    def _has_work(self) -> bool:
        for handler in self._handlers.values():
            if handler.endpoint.pending:
                return True
        return self._stopping

    def _run_pending(self, handler: Handler, after_each: Callable[[], None] | None) -> None:
        endpoint, run = handler.endpoint, handler.run
        pending, note_completed = endpoint.pending, endpoint.note_completed
        interval_ns = min(max(FLUSH_INTERVAL_NS, FLUSHED_SLOW * endpoint.cost_ns), FLUSH_INTERVAL_SLOW_NS)
        # hot path: 2.6 us a delivery, with the event and its handler.
        # Only what is pending now: deliveries of other subscribers wait in the pipe meanwhile.
        now = self._now_ns
        began_ns, count = now(), len(pending)
        for left in range(count, 0, -1):
            if self._stopping:
                break
            try:
                endpoint.current = record = pending.popleft()
            except IndexError:
                break  # Another thread returned the rest to the bus.
            # record[6] is its deadline; most have none.
            outcome = run(record) if not record[6] or record[6] > now() else handler.expire(record)
            if outcome == COMPLETED:
                note_completed(record[7])
            elif outcome:
                endpoint.note(record[7], outcome)
            if after_each is not None:
                self.events_handled += 1
                after_each()
            if left > CROWD and left & 7:
                continue
            now_ns = now()
            if now_ns - self._flushed_ns > interval_ns or left == 1:
                endpoint.cost_ns = (now_ns - began_ns) // (count - left + 1)
                self.flush()
                self._flushed_ns = now_ns
        self._reporter.flush(endpoint)
        self._reporter.release_ended()

    def flush(self) -> None:
        """Report all outcomes now."""
        for handler in tuple(self._handlers.values()):
            self._reporter.flush(handler.endpoint)
