"""Metrics: how many events a process publishes and gets, and how long its calls take.

Names, units and attributes are those of OpenTelemetry's conventions for messaging; docs/how-to/opentelemetry.md has
them as a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from opentelemetry import metrics
from opentelemetry.context import get_current
from opentelemetry.metrics import MeterProvider

from eventbus_mp import Deliveries, Event, EventShadow, Instrument, SubscriberKey
from eventbus_mp.addons.otel import names
from eventbus_mp.addons.otel.calls import Publishing, is_suppressed, topic_of
from eventbus_mp.addons.otel.meters import Meters, Subject, meters_of
from eventbus_mp.addons.otel.names import error_type
from eventbus_mp.addons.otel.propagate import complain
from eventbus_mp.addons.otel.topics import Traced

__all__ = ["Measuring", "MeasuringMaker"]

_Began = tuple[object, float, Any]
_began: ContextVar[_Began | None] = ContextVar("eventbus_mp_otel_began", default=None)
"""Of the calls under way in this context, the inner one: what it is of, when it began, and the call around it."""


class MeasuringMaker:
    """Makes the instrument of each session: one without hooks where nobody wants metrics, so that those cost nothing.

    Args:
        address: The bus's socket.
        exclude: Patterns of topics that are not measured.
        provider: Where measurements go; None: to the global one, if it is set when the session begins.
    """

    def __init__(self, address: str, exclude: tuple[str, ...], provider: MeterProvider | None = None) -> None:
        self._address, self._exclude, self._provider = address, exclude, provider
        self.is_off = False
        """Nothing is measured any more."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._address, self._exclude)

    def __call__(self) -> Instrument:
        provider = self._provider or metrics.get_meter_provider()
        # What stands in for a provider until one is set is the API's own, as is the one that does nothing.
        if type(provider).__module__.startswith("opentelemetry.metrics"):
            return Instrument()
        try:
            return Measuring(self, self._address, Traced(self._exclude), meters_of(provider))
        except Exception as error:
            complain("the meter provider raised, and nothing is measured", error)
            return Instrument()


class Measuring(Instrument):
    """The hooks that measure."""

    def __init__(self, maker: MeasuringMaker, address: str, traced: Traced, meters: Meters) -> None:
        self._maker = maker
        self._address = address
        self._is_measured = traced
        self._meters = meters
        self._publishing: Publishing[float] = Publishing()

    @property
    def _is_silent(self) -> bool:
        return self._maker.is_off or is_suppressed(get_current())

    def before_notify(self, events: Sequence[Event]) -> None:
        """See `Instrument`."""
        if not self._is_silent:
            self._publishing.leave(events, perf_counter())

    def after_notify(
        self, events: Sequence[Event], shadows: Sequence[EventShadow], error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        began = self._publishing.take(events)
        if began is None:
            return
        took_s = perf_counter() - began
        counts = self._counts(events)
        if counts:
            failed = error_type(error) if error is not None else None
            subject = Subject(self._address, names.PUBLISH, topic_of(events), None, failed)
            for topic, count in counts.items():
                self._meters.sent.add(subject._replace(topic=topic), count)
            self._meters.operation.record(subject, took_s)

    def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
        """See `Instrument`."""
        _began.set((items, perf_counter(), _began.get()))

    def after_handle(
        self, subscriber: SubscriberKey, items: Deliveries, outcomes: Sequence[str], error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        took_s = self._took_s(items)
        if took_s is not None and self._counts(items):
            failed = error_type(error) if "failed" in outcomes else None
            subject = Subject(self._address, names.PROCESS, topic_of(items), subscriber.name, failed)
            self._consume(subject, items)
            self._meters.process.record(subject, took_s)

    def before_receive(self, subscriber: SubscriberKey, limit: int) -> None:
        """See `Instrument`."""
        _began.set((subscriber, perf_counter(), _began.get()))

    def after_receive(self, subscriber: SubscriberKey, shadows: Deliveries, error: BaseException | None) -> None:
        """See `Instrument`."""
        took_s = self._took_s(subscriber)
        if took_s is not None and (self._counts(shadows) or error):
            failed = error_type(error) if error is not None else None
            subject = Subject(self._address, names.RECEIVE, topic_of(shadows), subscriber.name, failed)
            self._consume(subject, shadows)
            self._meters.operation.record(subject, took_s)

    def _took_s(self, what: object) -> float | None:
        """How long the call of this has taken, which has ended; None: it began when there was no hook, or is silent."""
        call = _began.get()
        if call is None or call[0] is not what:
            return None
        _began.set(call[2])
        return perf_counter() - call[1] if not self._is_silent else None

    def _counts(self, items: Sequence[Event | EventShadow]) -> dict[str, int]:
        """How many of them each topic has, of those that are measured."""
        if len(items) == 1:  # hot path: 2 us less.
            topic = items[0].topic
            return {topic: 1} if self._is_measured(topic) else {}
        counts = Counter(item.topic for item in items)
        return {topic: count for topic, count in counts.items() if self._is_measured(topic)}

    def _consume(self, subject: Subject, items: Deliveries) -> None:
        """Count deliveries; one that comes again was counted the first time."""
        first = [item for item, attempt in zip(items, items.attempts, strict=True) if attempt == 1]
        for topic, count in self._counts(first).items():
            self._meters.consumed.add(subject._replace(topic=topic), count)
