"""A trace's context in the headers of events, by the propagator that the program has configured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, SpanContext, set_span_in_context

from eventbus_mp import Event, EventBusError, UsageError

__all__ = ["carried_by", "carried_by_each", "complain", "context_of", "extracted", "with_carried", "with_span"]

log = logging.getLogger("eventbus_mp")

_complained: set[str] = set()


def complain(what: str, error: BaseException) -> None:
    """Log an error of what is configured: the first of each kind as one, and the rest, which may be one an event, not.

    Neither tracing nor measuring makes an event fail.
    """
    kind = f"{what}: {type(error).__name__}"
    level = logging.DEBUG if kind in _complained else logging.ERROR
    _complained.add(kind)
    log.log(level, "OpenTelemetry: %s; from now on this is logged at the level DEBUG", what, exc_info=error)


class _HeaderGetter(Getter[Mapping[str, Any]]):
    """Reads headers that another program may have written, and whose values need not be texts."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        """The values of a header; None: there is none."""
        value = carrier.get(key)
        if value is None:
            return None
        if type(value) is str:
            return [value]
        return [_text(each) for each in (value if isinstance(value, (list, tuple)) else (value,))]

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        """The names of the headers."""
        return [_text(name) for name in carrier]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


_getter = _HeaderGetter()


def extracted(event: Event | None, context: Context) -> Context:
    """`context` with what the event's headers carry; as it is if they carry nothing, or nothing that can be read."""
    headers = _headers_of(event)
    try:
        return propagate.get_global_textmap().extract(headers, context, _getter) if headers else context
    except Exception as error:
        complain("the configured propagator raised on the headers of an event", error)
    return context


def _headers_of(event: Event | None) -> Mapping[str, str] | None:
    try:
        return event.headers if event is not None else None
    except EventBusError as error:  # Somebody wrote over the event's memory: its reader will hear of it.
        complain("the headers of an event cannot be read", error)
        return None


def context_of(event: Event) -> Context:
    """The context that an event carries, for spans of your own: `tracer.start_span("work", context=context_of(event))`.

    It is empty if the event carries none, or none that can be read. Never blocks.

    Raises:
        UsageError: It is not an Event.
    """
    if not isinstance(event, Event):
        raise UsageError(f"context_of({event!r:.80}): give an Event")
    return extracted(event, Context())


def carried_by(event: Event) -> SpanContext | None:
    """The span in whose context the event was made, as its headers say; None: they do not."""
    found = trace.get_current_span(context_of(event)).get_span_context()
    return found if found.is_valid else None


def carried_by_each(events: Sequence[Event | None]) -> list[SpanContext | None]:
    """As `carried_by`, of each; None for None. The events of a `notify_many` have one context, which is read once."""
    found: list[SpanContext | None] = []
    last: Mapping[str, str] | None = None
    for event in events:
        headers = _headers_of(event)
        if not headers or event is None:
            found.append(None)
        elif headers == last:
            found.append(found[-1])
        else:
            found.append(carried_by(event))
        last = headers
    return found


def with_span(span: Span, context: Context) -> Context:
    """`context` with this span as the current one; as it is if nobody makes spans, so that what it carries goes on."""
    return set_span_in_context(span, context) if span.get_span_context().is_valid else context


def with_carried(event: Event, carrier: Mapping[str, str]) -> Event:
    """The event with what `propagate.inject` has put into `carrier` in its headers; as it is if that is too long."""
    headers = event.headers
    try:
        return event.with_headers({**headers, **carrier} if headers else carrier)
    except UsageError as error:
        complain("an event carries no context: there is no room in its headers, or they are not texts", error)
        return event
