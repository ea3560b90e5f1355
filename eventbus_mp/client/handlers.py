"""Handlers: a listener, which is what the user subscribed, as a function from a record to an outcome."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from eventbus_mp.client.endpoint import ClientEndpoint
from eventbus_mp.client.fetcher import EventFetcher
from eventbus_mp.client.plain_calls import refuse_unrun
from eventbus_mp.client.reporter import Reporter
from eventbus_mp.client.retries import Retries, failure_of, text_of_error
from eventbus_mp.client.validation import check_delay
from eventbus_mp.errors import BusClosed, BusFull, ManagerLost, Retry, Skip, UsageError
from eventbus_mp.events import Event, EventShadow
from eventbus_mp.protocol.messages import Outcome, Record
from eventbus_mp.protocol.reasons import EXPIRED, PAYLOAD_GONE

__all__ = [
    "BatchingHandler",
    "EventHandler",
    "Handler",
    "ShadowHandler",
    "log_error",
    "warn_replaced",
]

log = logging.getLogger("eventbus_mp")

COMPLETED = int(Outcome.COMPLETED)
FULL_DELAY_NS = 1_000_000_000
"""For how long a delivery is handed back whose handler found the bus full."""


def log_error(text: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log an error. The log's handlers are the user's code as well: if one raises, the listeners go on."""
    try:
        log.error(text, *arguments, exc_info=error)
    except Exception:
        traceback.print_exc()


def warn_replaced(before: Handler, handler: Handler) -> None:
    """Say that a subscriber's events go to another function from now on, if they do."""
    if before.call != handler.call:
        log.warning(
            "subscriber %r is subscribed again, with another function: from now on that one gets the events, and "
            "the new patterns hold; to have both, give them names (on(..., name=...))",
            handler.endpoint.key.name,
        )


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
        """Handle one delivery, and return its outcome; 0: it is settled elsewhere, or noted already.

        Exceptions of the user's code become outcomes and are not raised.

        Raises:
            BusClosed, ManagerLost: The connection ended while the user's code used it.
            OSError: The event's memory cannot be mapped; the user's code was not called.
        """
        raise NotImplementedError

    def retire(self) -> None:
        """Another handler gets the subscriber's deliveries from now on."""

    def expire(self, record: Record) -> int:
        """Skip a delivery whose deadline passed on the way here."""
        return self._skip(record, EXPIRED, Outcome.SKIPPED)

    def _skip(self, record: Record, reason: str, outcome: int) -> int:
        """Note it with the reason."""
        self.endpoint.note(record[7], outcome, reason)
        return 0

    def _fail(self, record: Record, what: str, error: BaseException, tries: int = 1) -> int:
        shadow = self.fetcher.delivered_shadow(record)
        log_error("%s %s %r: skipped", self.endpoint.key.name, what, shadow, error=error)
        self.endpoint.failures[record[7]] = failure_of(error, tries)
        return self._skip(record, f"{type(error).__name__}: {text_of_error(error)}", Outcome.FAILED)

    def _retry(self, record: Record, error: BaseException, delay_ns: int) -> int:
        """Hand it back, to be tried again after the delay."""
        log.info("%s wants %d again in %.3f s: %r", self.endpoint.key.name, record[7], delay_ns / 1e9, error)
        self.endpoint.failures[record[7]] = failure_of(error, 1)
        self.endpoint.note_retry(record[7], delay_ns)
        return 0

    def _release(self, record: Record, error: BusFull) -> int:
        """Hand it back for a while: the bus was full, which is not a failure of the user's code, nor of the event."""
        text = "%s found the bus full, and gets %d again in %.0f s: %s"
        log_error(text, self.endpoint.key.name, record[7], FULL_DELAY_NS / 1e9, error)
        self.endpoint.failures[record[7]] = failure_of(error, 1)
        self.endpoint.note_release(record[7], FULL_DELAY_NS)
        return 0

    def _retry_as_asked(self, record: Record, retry: Retry) -> int:
        """The user's code raised `Retry`."""
        try:
            delay_s = check_delay("Retry(delay_s)", retry.delay_s)
        except UsageError as mistake:
            return self._fail(record, "raised on", mistake)
        return self._retry(record, retry, int(delay_s * 1e9))


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
        shadow = self._begin(record)
        if shadow is None:
            return self._skip(record, PAYLOAD_GONE, Outcome.FAILED)
        try:
            result = self.call(shadow, *self._arguments)
            if result is not None:
                refuse_unrun(result)
        except BaseException as error:
            return self._raised(record, shadow, error)
        return self._returned(record)

    def _begin(self, record: Record) -> EventShadow | None:
        """The shadow, in flight from now on; None: its payload is gone."""
        shadow = self.fetcher.delivered_shadow(record)
        if shadow is not None:
            self.endpoint.in_flight[record[7]] = record
            if self.endpoint.marked:
                self.endpoint.settle_marked(record[7])
        return shadow

    def _raised(self, record: Record, shadow: EventShadow, error: BaseException) -> int:
        """The listener has raised: the outcome, unless it had settled the event."""
        is_open = self.endpoint.in_flight.pop(record[7], None) is not None
        if isinstance(error, (Skip, Retry, BusFull)):
            if not is_open:
                return self._returned(record)
            if isinstance(error, Skip):
                return self._skip(record, text_of_error(error), Outcome.SKIPPED)
            return self._retry_as_asked(record, error) if isinstance(error, Retry) else self._release(record, error)
        if is_open:
            return self._fail(record, "raised on", error)
        log_error("%s raised on %r, which it had settled", self.endpoint.key.name, shadow, error=error)
        return self._returned(record)

    def _returned(self, record: Record) -> int:
        """The listener has returned: it has settled the event, or settles it later."""
        in_flight = self.endpoint.in_flight
        if self.endpoint.is_over and in_flight.pop(record[7], None) is not None:
            return Outcome.RETURNED  # It was unsubscribed just as the listener was called.
        if record[7] in in_flight:
            # It settles this one later. It has taken it, and is to get the next one.
            self.endpoint.kept.append(record[7])
        return 0


class EventHandler(Handler):
    """For `EventBus.on`: the function gets the event, and how it ends settles the event.

    Returning completes it, raising `Skip` skips it, raising `Retry` has it delivered again. Any other exception has it
    called again, up to `retries` times: at once and here or, if they have a delay, after another delivery.
    """

    def __init__(
        self,
        endpoint: ClientEndpoint,
        fetcher: EventFetcher,
        reporter: Reporter,
        call: Callable[[Event], Any],
        retries: Retries,
    ) -> None:
        super().__init__(endpoint, fetcher, reporter, call)
        self._take = fetcher.delivered_event
        self._retries = retries

    def run(self, record: Record) -> int:
        attempts = 0
        while True:
            event = self._take(record)  # Not in the `try`: what it raises is not a failure of the user's code.
            if event is None:
                return self._skip(record, PAYLOAD_GONE, Outcome.FAILED)
            try:
                result = self.call(event)
                if result is not None:
                    refuse_unrun(result)
                return COMPLETED
            except BaseException as error:
                # BaseException: `sys.exit()` in a listener is the listener's failure. It does not end the thread.
                attempts += 1
                if self._has_ended(record, error, attempts):
                    return 0

    def _has_ended(self, record: Record, error: BaseException, attempts: int) -> bool:
        """Whether an attempt that raised was the last one; then its outcome is noted."""
        if isinstance(error, Skip):
            self._skip(record, text_of_error(error), Outcome.SKIPPED)
            return True
        if isinstance(error, Retry):
            self._retry_as_asked(record, error)
            return True
        if isinstance(error, (BusClosed, ManagerLost)) and self.reporter.lost:
            raise error  # The outcome cannot be reported to anybody.
        if isinstance(error, BusFull):
            self._release(record, error)
            return True
        retries = self._retries
        if retries.delay_s:
            attempt = self.endpoint.attempt_of(record[7])
            if attempt <= retries.count:
                self._retry(record, error, retries.delay_ns(attempt))
            else:
                self._fail(record, f"raised at attempt {attempt} on", error)
            return True
        if attempts > retries.count:
            self._fail(record, f"raised {attempts} times on", error, attempts)
            return True
        self.endpoint.note_attempt(record[7])
        return False


class BatchingHandler(Handler):
    """One that handles several deliveries in one call; batch_handler.py has it."""

    @property
    def is_full(self) -> bool:
        """Whether a whole batch has arrived."""
        raise NotImplementedError

    @property
    def due_ns(self) -> float:
        """When what has arrived is a batch even if it is not full; infinite when nothing has arrived."""
        raise NotImplementedError

    def take(self) -> list[Record]:
        """Take the next batch off what is pending; what has expired is settled, and not part of it."""
        raise NotImplementedError

    def run_batch(self, records: list[Record]) -> None:
        """Handle these deliveries, and note how each one ended; exceptions of the user's code become outcomes.

        Raises:
            BusClosed, ManagerLost: The connection ended while the user's code used it.
        """
        raise NotImplementedError
