"""Tracing: which spans there are, what is their parent, and which context events carry.

The rules are those of OpenTelemetry's conventions for messaging; docs/how-to/opentelemetry.md has them as tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, NamedTuple

from opentelemetry import propagate
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Link, Span, SpanKind, TracerProvider, get_current_span

from eventbus_mp import Deliveries, Event, EventShadow, Instrument, SubscriberKey
from eventbus_mp.addons.otel import names
from eventbus_mp.addons.otel.calls import Publishing, is_suppressed, topic_of
from eventbus_mp.addons.otel.propagate import carried_by, carried_by_each, complain, extracted, with_carried, with_span
from eventbus_mp.addons.otel.spans import LINKS_MAX, SpanMaker, link_to

__all__ = ["Options", "SettleTracing", "Tracing"]

WORST_FIRST = ("failed", "retried", "returned", "open", "skipped", "completed")


class Options(NamedTuple):
    """What `instrument` was given, but for what does not travel to another process."""

    parent: str
    create_spans: bool
    exclude: tuple[str, ...]


class _Waiting(NamedTuple):
    """A call that takes from an inbox."""

    limit: int
    began_ns: int


_Call = tuple[object, Span | None, Token[Context] | None, Any]
"""A call that has begun, of a handler or an inbox: what it is of, its span, what to detach, and the call around it."""

_call: ContextVar[_Call | None] = ContextVar("eventbus_mp_otel_call", default=None)


class Tracing(Instrument):
    """The hooks of `instrument`. In another process it is made anew, for that process's tracer provider."""

    def __init__(self, address: str, options: Options, provider: TracerProvider | None = None) -> None:
        self._address = address
        self._options = options
        self._spans = SpanMaker(address, options.exclude, provider)
        self._publishing: Publishing[Span] = Publishing()
        self.is_off = False
        """Nothing new begins; what has begun ends."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._address, self._options)

    def _is_silent(self, current: Context) -> bool:
        return self.is_off or is_suppressed(current)

    def before_connect(self, bus: str) -> None:
        """See `Instrument`."""
        self._spans.begin()

    # --- publishing ---

    def before_notify(self, events: Sequence[Event]) -> Sequence[Event] | None:
        """See `Instrument`."""
        current = get_current()
        if self._is_silent(current):
            return None
        if len(events) == 1:
            # hot path: what is written for several events costs a single one 2 us of 30 (SDK and all).
            if not self._spans.traces(events[0].topic):
                return None
            span, made = self._publish_one(events[0], current)
        else:
            span, made = self._publish_many(events, current)
        if span is not None:
            self._publishing.leave(events, span)
        return made

    def _publish_one(self, event: Event, current: Context) -> tuple[Span | None, Sequence[Event] | None]:
        own = carried_by(event) if event.headers else None
        kind, links = (SpanKind.PRODUCER, ()) if own is None else (SpanKind.CLIENT, (Link(own),))
        span = self._spans.start(names.PUBLISH, event.topic, kind, current, links, event=event)
        return span, None if own or span is None else (with_carried(event, _carrier(span, current)),)

    def _publish_many(self, events: Sequence[Event], current: Context) -> tuple[Span | None, Sequence[Event] | None]:
        """The span of those that have spans; and all events, as they are published."""
        topics = {event.topic for event in events}
        if all(map(self._spans.traces, topics)):
            return self._publish_batch(list(events), current)
        traced = [event for event in events if self._spans.traces(event.topic)]
        if not traced:
            return None, None
        span, made = self._publish_batch(traced, current)
        replaced = iter(made)
        return span, [next(replaced) if self._spans.traces(event.topic) else event for event in events]

    def _publish_batch(self, events: list[Event], current: Context) -> tuple[Span | None, list[Event]]:
        """One span for all, whose context they carry; or one for each, to which it links."""
        made_in = carried_by_each(events)
        if self._options.create_spans:
            for at, event in enumerate(events):
                if made_in[at] is None:
                    events[at], made_in[at] = self._create(event, current)
        links = [link for event, own in zip(events, made_in, strict=True) for link in link_to(own, event)][:LINKS_MAX]
        kind = SpanKind.PRODUCER if None in made_in else SpanKind.CLIENT
        count = {names.BATCH_MESSAGE_COUNT: len(events)}
        span = self._spans.start(names.PUBLISH, topic_of(events), kind, current, links, more=count)
        if span is None:
            return None, events
        carrier = _carrier(span, current)
        return span, [
            event if own else with_carried(event, carrier) for event, own in zip(events, made_in, strict=True)
        ]

    def _create(self, event: Event, current: Context) -> tuple[Event, Any]:
        span = self._spans.start(names.CREATE, event.topic, SpanKind.PRODUCER, current, event=event)
        if span is None:
            return event, None
        self._spans.end(span)
        return with_carried(event, _carrier(span, current)), span.get_span_context()

    def after_notify(
        self, events: Sequence[Event], shadows: Sequence[EventShadow], error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        span = self._publishing.take(events)
        if span is not None:
            self._spans.end(span, error)

    # --- handling ---

    def before_handle(self, subscriber: SubscriberKey, items: Deliveries) -> None:
        """See `Instrument`."""
        current = get_current()
        span = token = None
        if not self._is_silent(current):
            if len(items) == 1:
                span, context = self._process(subscriber, items, current)
            else:
                span, context = self._process_batch(subscriber, items, current), current
            if span is not None:
                token = attach(with_span(span, context))
        _call.set((items, span, token, _call.get()))

    def _process(self, subscriber: SubscriberKey, items: Deliveries, current: Context) -> tuple[Span | None, Context]:
        """The span of a call, and the context in which the call is, but for the span."""
        # hot path: 2 us less of 30 (SDK and all) by what looks only where there is something.
        item = items[0]
        if not self._spans.traces(item.topic):
            return None, current
        event = item if isinstance(item, Event) else items.events[0]
        parent, base = current, extracted(event, current)
        found = get_current_span(base).get_span_context()
        if current and get_current_span(current).get_span_context().is_valid:
            found = get_current_span(extracted(event, Context())).get_span_context()
            base = current
        elif self._options.parent == "auto":
            parent = base
        attempt = items.attempts[0]
        span = self._spans.start(
            names.PROCESS,
            item.topic,
            SpanKind.CONSUMER,
            parent,
            (Link(found),) if found.is_valid else (),
            group=subscriber.name,
            event=event if event is not None else item,
            more={names.ATTEMPT: attempt} if attempt > 1 else None,
        )
        return span, base

    def _process_batch(self, subscriber: SubscriberKey, items: Deliveries, current: Context) -> Span | None:
        if not any(self._spans.traces(item.topic) for item in items):
            return None
        more = {names.BATCH_MESSAGE_COUNT: len(items)}
        topic, links = topic_of(items), _links(items)
        group = subscriber.name
        return self._spans.start(names.PROCESS, topic, SpanKind.CONSUMER, current, links, group=group, more=more)

    def after_handle(
        self, subscriber: SubscriberKey, items: Deliveries, outcomes: Sequence[str], error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        call = _call.get()
        if call is None or call[0] is not items:
            return  # It began when there was no hook.
        _, span, token, outer = call
        _call.set(outer)
        try:
            if span is not None:
                worst = outcomes[0] if len(outcomes) == 1 else next(each for each in WORST_FIRST if each in outcomes)
                self._spans.end(span, error, worst)
        finally:
            if token is not None:
                detach(token)

    # --- taking ---

    def before_receive(self, subscriber: SubscriberKey, limit: int) -> None:
        """See `Instrument`."""
        _call.set((_Waiting(limit, time.time_ns()), None, None, _call.get()))

    def after_receive(self, subscriber: SubscriberKey, shadows: Deliveries, error: BaseException | None) -> None:
        """See `Instrument`."""
        call = _call.get()
        if call is None or not isinstance(call[0], _Waiting):
            return
        waiting = call[0]
        _call.set(call[3])
        current = get_current()
        if self._is_silent(current) or not (shadows or error):
            return
        if shadows and not any(self._spans.traces(shadow.topic) for shadow in shadows):
            return
        one: Event | EventShadow | None = None
        more: dict[str, Any] = {}
        if waiting.limit > 1 or not shadows:
            more[names.BATCH_MESSAGE_COUNT] = len(shadows)
        else:
            one = shadows.events[0] or shadows[0]
            if shadows.attempts[0] > 1:
                more[names.ATTEMPT] = shadows.attempts[0]
        start = partial(self._spans.start, group=subscriber.name, event=one, more=more, start_ns=waiting.began_ns)
        span = start(names.RECEIVE, topic_of(shadows), SpanKind.CLIENT, current, _links(shadows))
        if span is not None:
            self._spans.end(span, error)


class SettleTracing(Tracing):
    """With spans for what a program settles by hand."""

    def before_settle(self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str) -> None:
        """See `Instrument`."""
        current = get_current()
        span = None
        if not self._is_silent(current) and any(self._spans.traces(shadow.topic) for shadow in shadows):
            operation = names.ACK if outcome == "completed" else names.SKIP
            one = shadows[0] if len(shadows) == 1 else None
            more: dict[str, Any] = {names.OUTCOME: outcome}
            if one is None:
                more[names.BATCH_MESSAGE_COUNT] = len(shadows)
            start = partial(self._spans.start, group=subscriber.name, event=one, more=more)
            span = start(operation, topic_of(shadows), SpanKind.CLIENT, current)
        _call.set((shadows, span, None, _call.get()))

    def after_settle(
        self, subscriber: SubscriberKey, shadows: Sequence[EventShadow], outcome: str, error: BaseException | None
    ) -> None:
        """See `Instrument`."""
        call = _call.get()
        if call is None or call[0] is not shadows:
            return
        _, span, _, outer = call
        _call.set(outer)
        if span is not None:
            self._spans.end(span, error)


def _carrier(span: Span, current: Context) -> dict[str, str]:
    """What travels in headers of the context in which this span is."""
    carrier: dict[str, str] = {}
    try:
        propagate.get_global_textmap().inject(carrier, with_span(span, current))
    except Exception as error:
        complain("the configured propagator raised, and events carry no context", error)
    return carrier


def _links(items: Deliveries) -> list[Link]:
    """To the spans in whose contexts the first of these were made."""
    first = items.first(LINKS_MAX)
    events = first.events
    found = zip(first, events, carried_by_each(events), first.attempts, strict=True)
    return [
        link for item, event, made_in, attempt in found if event is not None for link in link_to(made_in, item, attempt)
    ]
