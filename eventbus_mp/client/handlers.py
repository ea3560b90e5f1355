"""Running listeners: the loop of a process's listener thread, and of a worker's main thread.

A listener is whatever the user gave; a `Handler` makes it a function from a record to an outcome. The loop takes
deliveries one by one, runs the handler, and tells outcomes in batches: when nothing is left, or two milliseconds
after the last time (four, of slow ones).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from eventbus_mp.client.connection import Connection
from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.errors import BusClosed, ManagerLost, Skip
from eventbus_mp.events import Event
from eventbus_mp.protocol.messages import Outcome, Record

__all__ = ["EventHandler", "Handler", "HandlerLoop", "ShadowHandler", "current_loop"]

log = logging.getLogger("eventbus_mp")

FLUSH_INTERVAL_NS, FLUSH_INTERVAL_SLOW_NS = 2_000_000, 4_000_000
"""Telling an outcome wakes the manager. For tasks of 1 ms on two cores, telling each one cost 5 % of the throughput,
and every second one still 1.5 %; so of slow ones four are told at once, if they take no longer than the second."""
FLUSHED_SLOW = 4
CROWD = 64
"""When so many are pending, the handler is a fast one: the time is looked at after every eighth delivery only."""
COMPLETED = int(Outcome.COMPLETED)

_local = threading.local()


def current_loop() -> HandlerLoop | None:
    """The loop whose listener the calling thread is running, if it is."""
    return getattr(_local, "loop", None)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as cause:  # It is the user's code, too.
        return f"(its text cannot be had: {type(cause).__name__})"


class Handler:
    """One subscription and the user's code behind it."""

    def __init__(self, endpoint: ClientEndpoint, fetcher: EventFetcher, call: Callable[..., Any]) -> None:
        self.endpoint = endpoint
        self.fetcher = fetcher
        self.call = call
        """The user's code."""

    def run(self, record: Record) -> int:
        """Handle one delivery: its outcome, or 0 when the listener settles it itself.

        Never raises what the user's code raises.
        """
        raise NotImplementedError

    def expire(self, record: Record) -> int:
        """Skip a delivery whose deadline passed on the way here."""
        return self._skip(record, "expired", Outcome.SKIPPED)

    def _skip(self, record: Record, reason: str, outcome: int) -> int:
        shadow = self.fetcher.delivered_shadow(record)
        self.endpoint.explain(shadow.id if shadow else "?", reason)
        return outcome

    def _fail(self, record: Record, what: str, error: BaseException) -> int:
        shadow = self.fetcher.delivered_shadow(record)
        log.error("%s %s %r: skipped", self.endpoint.key.name, what, shadow, exc_info=error)
        return self._skip(record, f"{type(error).__name__}: {_text_of(error)}", Outcome.FAILED)


class ShadowHandler(Handler):
    """The original's way: the listener gets the shadow and settles the event itself, whenever it likes."""

    def __init__(
        self, endpoint: ClientEndpoint, fetcher: EventFetcher, call: Callable[..., Any], arguments: tuple[Any, ...]
    ):
        super().__init__(endpoint, fetcher, call)
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
            return Outcome.RETURNED  # It was unsubscribed just as the listener began.
        return 0


class EventHandler(Handler):
    """The short way: the function gets the event; returning completes it, `Skip` skips it, raising tries again."""

    def __init__(
        self, endpoint: ClientEndpoint, fetcher: EventFetcher, call: Callable[[Event], Any], retries: int
    ) -> None:
        super().__init__(endpoint, fetcher, call)
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
                # BaseException: `sys.exit()` in a listener is its failure, and not the end of the thread it runs on.
                attempts += 1
                outcome = self._judge(record, error, attempts)
                if outcome:
                    return outcome

    def _judge(self, record: Record, error: BaseException, attempts: int) -> int:
        """What comes of an attempt that raised; 0: another one."""
        if isinstance(error, Skip):
            return self._skip(record, _text_of(error), Outcome.SKIPPED)
        if isinstance(error, (BusClosed, ManagerLost)) and self.endpoint.lost:
            raise error  # There is nobody to tell.
        return self._fail(record, f"raised {attempts} times on", error) if attempts > self._retries else 0


class HandlerLoop:
    """Runs handlers until it is stopped. One thread runs it; any thread may add handlers or stop it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._handlers: dict[int, Handler] = {}
        self._stopping = False
        self._flushed_ns = 0
        self.events_handled = 0
        """Counted for who gives `after_each`."""

    def add(self, handler: Handler) -> None:
        """Run this handler from now on, in the place of the one that its subscriber had."""
        before = self._handlers.get(handler.endpoint.number)
        if before is not None and before.call != handler.call:
            log.warning(
                "subscriber %r is subscribed again, with another function: that one takes the events from now on, and "
                "the new patterns hold; to have both, give them names (on(..., name=...))",
                handler.endpoint.key.name,
            )
        self._handlers = {**self._handlers, handler.endpoint.number: handler}
        self._connection.wake()

    def remove(self, number: int) -> None:
        """Run this subscriber's handler no more; what has arrived for it is handed back by the caller."""
        self._handlers = {key: handler for key, handler in self._handlers.items() if key != number}

    def stop(self) -> None:
        """Return from `run` after the delivery in hand; safe in a signal handler."""
        self._stopping = True
        self._connection.wake()

    def run(self, after_each: Callable[[], None] | None = None) -> None:
        """Run until `stop`, or until the connection ends.

        Raises:
            ManagerLost, BusClosed: The connection ended.
        """
        _local.loop = self
        while not self._stopping:
            self._connection.wait(self._has_work)
            for handler in tuple(self._handlers.values()):
                if handler.endpoint.pending:
                    self._run_pending(handler, after_each)
        self.flush()

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
        # Not for ever: the others' deliveries wait in the pipe meanwhile.
        began_ns, count = monotonic_ns(), len(pending)
        for left in range(count, 0, -1):
            if self._stopping:
                break
            try:
                endpoint.current = record = pending.popleft()
            except IndexError:
                break  # Another thread handed the rest back.
            # record[6] is its deadline; most have none.
            outcome = run(record) if not record[6] or record[6] > monotonic_ns() else handler.expire(record)
            if outcome == COMPLETED:
                note_completed(record[7])
            elif outcome:
                endpoint.note(record[7], outcome)
            if after_each is not None:
                self.events_handled += 1
                after_each()
            if left > CROWD and left & 7:
                continue
            now_ns = monotonic_ns()
            if now_ns - self._flushed_ns > interval_ns or left == 1:
                endpoint.cost_ns = (now_ns - began_ns) // (count - left + 1)
                self.flush()
                self._flushed_ns = now_ns
        endpoint.flush()
        handler.fetcher.release_ended()

    def flush(self) -> None:
        """Tell what is settled, now."""
        for handler in tuple(self._handlers.values()):
            handler.endpoint.flush()
