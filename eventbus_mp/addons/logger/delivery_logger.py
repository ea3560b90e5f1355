"""DeliveryLogger: an instrument that writes a line for each thing that this process does with an event."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

from eventbus_mp import Deliveries, Event, EventShadow, Instrument, SubscriberKey
from eventbus_mp.addons.logger.choice import checked_level, compiled
from eventbus_mp.addons.logger.lines import Fields, for_record, json_line, text_line
from eventbus_mp.addons.logger.plain import error_text
from eventbus_mp.addons.logger.writer import LineCounts, LineWriter, checked_logger, checked_patience

__all__ = ["DeliveryLogger"]

BYTES_MAX = 2048

_Began = tuple[int, Any]
_began: ContextVar[_Began | None] = ContextVar("eventbus_mp_delivery_logger_began", default=None)
"""When the calls that are under way in this context began, the inner one first."""


class DeliveryLogger(Instrument):
    """Logs what this process publishes, handles and settles: `EventBus("shop", instruments=[DeliveryLogger])`.

        notified order_paid 124 0.062 ms
        delivered order_paid 124 to=billing
        completed order_paid 124 by=billing 3.1 ms
        failed order_paid 125 by=billing 0.4 ms error="ValueError: no such account"

    The times are those of the call: of `notify`, and of the handler. The lines are written by a thread of its own: a
    handler of `logging` that raises or blocks costs lines, which are counted, and holds up neither `notify` nor a
    handler. For a pool give the class, or a `functools.partial` of it: each worker makes its own.

    Args:
        level: Of the lines, a name or a number.
        topics: Patterns of the topics.
        logger: Gets the lines; its name, or itself.
        json: Each line is a JSON object.

    Raises:
        UsageError: An argument is not of its kind.
    """

    def __init__(
        self,
        level: str | int = "debug",
        topics: Iterable[str] = ("",),
        *,
        logger: str | logging.Logger = "eventbus_mp.deliveries",
        json: bool = False,
        patience_s: float = 1.0,
    ) -> None:
        self._level = checked_level("level", level)
        self._patterns = compiled("topics", topics)
        self._json = json
        self._writer = LineWriter(checked_logger(logger), checked_patience(patience_s), json=json)

    @property
    def counts(self) -> LineCounts:
        """How many lines were written, failed and missed."""
        return self._writer.counts

    def close(self) -> None:
        """Write the lines that wait, for `patience_s` at most. A later line is written all the same."""
        self._writer.close()

    # --- hooks ---

    def before_notify(self, events: Sequence[Event]) -> None:
        _begin()

    def after_notify(
        self, events: Sequence[Event], shadows: Sequence[EventShadow], error: BaseException | None
    ) -> None:
        took = _end()
        for item in shadows or events:
            self._write("notified" if error is None else "not notified", item, {}, took, error)

    def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
        for item in items:
            self._write("delivered", item, {"to": subscriber.name})
        _begin()

    def after_handle(
        self,
        subscriber: SubscriberKey,
        items: Deliveries,
        outcomes: Sequence[str],
        error: BaseException | None,
    ) -> None:
        took = _end()
        for item, outcome in zip(items, outcomes, strict=True):
            is_failed = outcome not in ("completed", "open")
            self._write(outcome, item, {"by": subscriber.name}, took, error if is_failed else None)

    def after_settle(
        self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str, error: BaseException | None
    ) -> None:
        for shadow in shadows:
            self._write(outcome if error is None else f"not {outcome}", shadow, {"by": subscriber.name}, None, error)

    def _write(
        self,
        verb: str,
        item: Event | EventShadow,
        fields: Fields,
        took_ms: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        if not self._writer.is_wanted(self._level) or not any(found.match(item.topic) for found in self._patterns):
            return
        fields = {"topic": item.topic, "event_id": item.id, **fields}
        if took_ms is not None:
            fields["duration_ms"] = took_ms
        if error is not None:
            fields["error"] = error_text(error)
        named = {"what": verb, **fields}
        line = json_line(self._level, named, BYTES_MAX) if self._json else text_line(verb, fields, BYTES_MAX)
        self._writer.write(self._level, line, for_record(named, BYTES_MAX))


def _begin() -> None:
    _began.set((time.perf_counter_ns(), _began.get()))


def _end() -> float | None:
    """How long ago the call began that ends now, in ms."""
    found = _began.get()
    if found is None:
        return None
    began_ns, outer = found
    _began.set(outer)
    return (time.perf_counter_ns() - began_ns) / 1e6
